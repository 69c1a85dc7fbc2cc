"""What transformers and torch make of a Hugging Face directory, as one JSON object: the independent
word on perplexity, PIQA accuracy, token ids and greedy text that `subbit eval`,
`bench/quality/piqa.js` and `subbit generate` are compared with. A development script: it needs
Python with `pip install torch transformers`.

    python3 scripts/dev/hf_scores.py MODEL [--text FILE [--windows 32] [--context 256]]
        [--piqa FILE [--limit 100]] [--prompt TEXT [--tokens 64]] [--ids FILE]

--text  perplexity as `subbit eval` defines it: the text tokenized whole, cut into windows of
        context - 1 tokens, each behind the start token.
--piqa  accuracy by log-likelihood of the solution, plain and per byte of it.
--ids   the text's token ids as little-endian int32, written to FILE beside what is asked for.
"""
import argparse
import json
import math
import pathlib

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def log_probabilities(model, windows):
    """log p of every token after the first, [windows, length - 1]."""
    logits = model(windows).logits[:, :-1].log_softmax(-1)
    return logits.gather(-1, windows[:, 1:, None])[..., 0]


def perplexity(model, ids, bos, arguments):
    length = arguments.context - 1
    count = min(arguments.windows, len(ids) // length)
    total = 0.0
    for i in range(count):
        window = torch.tensor([[bos] + ids[i * length:(i + 1) * length]])
        total += log_probabilities(model, window).double().sum().item()
    return {"perplexity": math.exp(-total / (count * length)), "windows": count,
            "tokens": count * length}


def piqa(model, tokenizer, arguments):
    lines = pathlib.Path(arguments.piqa).read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line) for line in lines[:arguments.limit]]
    right = {"accuracy": 0, "accuracy_normalized": 0}
    for question in questions:
        prompt = tokenizer.encode(f"Question: {question['goal']}\nAnswer:",
                                  add_special_tokens=False)
        sums, means = [], []
        for key in ("sol1", "sol2"):
            continuation = " " + question[key].strip()
            ids = tokenizer.encode(continuation, add_special_tokens=False)
            window = torch.tensor([[model.config.bos_token_id] + prompt + ids])
            sums.append(log_probabilities(model, window)[0, -len(ids):].double().sum().item())
            means.append(sums[-1] / len(continuation.encode()))
        right["accuracy"] += (sums[1] > sums[0]) == question["label"]
        right["accuracy_normalized"] += (means[1] > means[0]) == question["label"]
    return {"questions": len(questions),
            **{name: int(count) / len(questions) for name, count in right.items()}}


def greedy(model, tokenizer, arguments):
    ids = torch.tensor([tokenizer.encode(arguments.prompt)])
    made = model.generate(ids, max_new_tokens=arguments.tokens, do_sample=False)
    return tokenizer.decode(made[0, ids.shape[1]:], skip_special_tokens=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--text")
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--piqa")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--prompt")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--ids")
    parser.add_argument("--bos", type=int, help="another start token than the model's")
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    bos = model.config.bos_token_id if arguments.bos is None else arguments.bos
    result = {}
    with torch.no_grad():
        if arguments.text:
            text = pathlib.Path(arguments.text).read_text(encoding="utf-8")
            ids = tokenizer.encode(text, add_special_tokens=False)
            if arguments.ids:
                np.array(ids, "<i4").tofile(arguments.ids)
            result["text"] = perplexity(model, ids, bos, arguments)
        if arguments.piqa:
            result["piqa"] = piqa(model, tokenizer, arguments)
        if arguments.prompt:
            result["greedy"] = greedy(model, tokenizer, arguments)
    print(json.dumps(result, indent=1, ensure_ascii=False))


main()
