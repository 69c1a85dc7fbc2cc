/**
 * A Llama with random weights and a tokenizer of a few words, for tests that need an engine at work
 * and not good text. The same shape gives the same bytes.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";

import { safetensorsFile, type TensorBytes } from "./safetensors-writer.js";
import { repeatableRandom, tinyTokenizer, words, writeTinyModel } from "./tiny-model.js";

export interface Shape {
  hidden: number;
  /** Of the MLP. */
  inner: number;
  layers: number;
  heads: number;
  context: number;
}

/** Enough to load, generate and compress in well under a second. */
export const small: Shape = { hidden: 64, inner: 128, layers: 3, heads: 4, context: 64 };

// The tokenizer's 299 pieces and some ids that no piece has, as many real models have them.
export const vocab = 304;

/** Writes the model into a fresh directory and returns its path. */
export function writeRandomModel(shape: Shape = small): string {
  const directory = writeTinyModel(tinyTokenizer(words));
  writeFileSync(join(directory, "config.json"), JSON.stringify(configOf(shape)));
  writeFileSync(
    join(directory, "model.safetensors"),
    safetensorsFile(randomTensors(tensorsOf(shape))),
  );
  return directory;
}

export function configOf({ hidden, inner, layers, heads, context }: Shape): object {
  return {
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    hidden_size: hidden,
    intermediate_size: inner,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: heads,
    max_position_embeddings: context,
    vocab_size: vocab,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    hidden_act: "silu",
    tie_word_embeddings: true,
    bos_token_id: 1,
    eos_token_id: 2,
  };
}

function tensorsOf({ hidden, inner, layers }: Shape): Map<string, number[]> {
  const tensors = new Map<string, number[]>([
    ["model.embed_tokens.weight", [vocab, hidden]],
    ["model.norm.weight", [hidden]],
  ]);
  for (let layer = 0; layer < layers; layer++) {
    const of = (name: string) => `model.layers.${layer}.${name}.weight`;
    for (const name of ["q", "k", "v", "o"]) {
      tensors.set(of(`self_attn.${name}_proj`), [hidden, hidden]);
    }
    tensors.set(of("mlp.gate_proj"), [inner, hidden]);
    tensors.set(of("mlp.up_proj"), [inner, hidden]);
    tensors.set(of("mlp.down_proj"), [hidden, inner]);
    tensors.set(of("input_layernorm"), [hidden]);
    tensors.set(of("post_attention_layernorm"), [hidden]);
  }
  return tensors;
}

function randomTensors(shapes: Map<string, number[]>): TensorBytes[] {
  const random = repeatableRandom(1);
  return [...shapes].map(([name, shape]) => {
    const count = shape.reduce((product, extent) => product * extent, 1);
    // Norms of one; rows of matrices of about unit length, so that activations keep their size.
    const scale = Math.sqrt(3 / (shape[1] ?? 1));
    const values = Float32Array.from({ length: count }, () =>
      shape.length === 1 ? 1 : scale * (2 * random() - 1),
    );
    return { name, dtype: "F32", shape, bytes: new Uint8Array(values.buffer) };
  });
}
