"""What more tuning would buy: the compressor's whole-model stage again, in PyTorch on a GPU, where
several students with rates of their own learn side by side and a step takes milliseconds.

A study, not the product. It differs from native/engine/compress/tune in what it can afford: the
teacher's whole distribution instead of its 32 likeliest tokens, activations in bfloat16 instead of
8-bit codes, every row of the embedding in every step. Parameters, moments, rates and schedule are
the same. Of the Llama family, sizes of stories15M.

    npm run bench:quality -- --effort max --tokens 153600 --presets "no model stage" --keep starts
    python3 scripts/dev/tuning_study.py --teacher ../shared/data/models/stories15M \\
        --start starts/no-model-stage --text ../shared/data/text/tinystories-valid.txt \\
        --students '[{}, {"end": 0.1}, {"latent": 0.001, "end": 0.1}]' --steps 15000

Needs torch, triton, tokenizers and a CUDA device. Judged on the first 64 windows of the text;
trained on what follows but for the last 16 windows, which are held out, and on --written tokens of
the teacher's own making.
"""
import argparse
import json
import math
import struct
import time

import numpy as np
import tokenizers
import torch
import torch.nn.functional as F
import triton
import triton.language as tl

HIDDEN, LAYERS, HEADS, HEAD_DIM, WIDE, VOCAB, WINDOW = 288, 6, 6, 48, 768, 32000, 256
GROUP = 32  # columns of an int4 scale
BF16 = torch.bfloat16
DEVICE = "cuda"


# Files: safetensors, factored linears and int4 embeddings, by the layout's description.


def read_tensors(path):
    raw = open(path, "rb").read()
    size = struct.unpack("<Q", raw[:8])[0]
    tensors = {}
    for name, entry in json.loads(raw[8 : 8 + size]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            tensors[name] = (entry["dtype"], entry["shape"], raw[8 + size + begin : 8 + size + end])
    return tensors


def floats_of(tensor):
    dtype, shape, raw = tensor
    if dtype == "BF16":
        values = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        values = np.frombuffer(raw, np.float16 if dtype == "F16" else np.float32)
    return torch.from_numpy(values.astype(np.float32).reshape(shape)).to(DEVICE)


def halves(raw, at, count):
    return torch.from_numpy(np.frombuffer(raw, np.float16, count, at).astype(np.float32)).to(DEVICE)


def signs_of(raw, at, rows, cols):
    """Quads of rows, words of 32 columns, bit 1 for +1. Returns the signs and where they end."""
    words, quads = -(-cols // 32), -(-rows // 4)
    stored = np.frombuffer(raw, np.uint32, quads * words * 4, at).reshape(quads, words, 4)
    bits = (stored[..., None] >> np.arange(32, dtype=np.uint32)) & 1
    bits = bits.transpose(0, 2, 1, 3).reshape(quads * 4, words * 32)[:rows, :cols]
    return torch.from_numpy(bits.astype(np.float32) * 2 - 1).to(DEVICE), at + quads * words * 16


def factored_of(tensor):
    """U, V, s_post and s_pre (None where a norm holds it) of a linear of one factored term."""
    raw = tensor[2]
    if raw[:5] != b"SBL1\x01" or raw[16] != 3 or raw[17] & 1 or raw[5] & 2:
        raise ValueError("not one plain factored term")
    rows, cols = struct.unpack("<II", raw[8:16])
    rank = 32 * struct.unpack("<H", raw[18:20])[0]
    gain = struct.unpack("<f", raw[28:32])[0]
    post = halves(raw, 32, rows) * gain
    at = 32 + 2 * rows
    pre = halves(raw, at, cols) if raw[5] & 1 else None
    at += 2 * cols if raw[5] & 1 else 0
    words = 16 * (-(-rank // 4) * -(-cols // 32) + -(-rows // 4) * -(-rank // 32))
    alignment = 128 if words >= 65536 else 32
    v, at = signs_of(raw, -(-at // alignment) * alignment, rank, cols)
    u, at = signs_of(raw, at, rows, rank)
    return u, v, post, pre


def int4_of(tensor):
    """Codes [vocab, hidden] and scales [vocab, groups]."""
    raw = tensor[2]
    units = VOCAB * HIDDEN // GROUP
    pairs = np.frombuffer(raw, np.uint8, units * GROUP // 2).reshape(units, GROUP // 2)
    codes = np.concatenate([pairs & 15, pairs >> 4], 1).astype(np.float32) - 8
    scales = np.frombuffer(raw, np.float16, units, units * GROUP // 2).astype(np.float32)
    return (
        torch.from_numpy(codes).view(VOCAB, HIDDEN).to(DEVICE),
        torch.from_numpy(scales).view(VOCAB, HIDDEN // GROUP).to(DEVICE).contiguous(),
    )


# Kernels: one pass over memory each, students side by side.


@triton.jit
def divergence_kernel(logits, p, entropy, loss, rows, count, scale, BLOCK: tl.constexpr):
    """KL(p || softmax(logits)) of a row, whose logits become their gradient times `scale`."""
    row = tl.program_id(0).to(tl.int64)
    base = logits + row * count
    wanted = p + (row % rows) * count
    largest = -1e30
    total = 0.0
    mixed = 0.0
    for first in range(0, count, BLOCK):
        at = first + tl.arange(0, BLOCK)
        inside = at < count
        x = tl.load(base + at, mask=inside, other=-1e30).to(tl.float32)
        mixed += tl.sum(tl.where(inside, x * tl.load(wanted + at, mask=inside, other=0.0), 0.0), 0)
        now = tl.maximum(largest, tl.max(x, 0))
        total = total * tl.exp(largest - now) + tl.sum(tl.exp(x - now), 0)
        largest = now
    log_sum = largest + tl.log(total)
    tl.store(loss + row, tl.load(entropy + row % rows) - mixed + log_sum)
    for first in range(0, count, BLOCK):
        at = first + tl.arange(0, BLOCK)
        inside = at < count
        x = tl.load(base + at, mask=inside, other=-1e30).to(tl.float32)
        g = (tl.exp(x - log_sum) - tl.load(wanted + at, mask=inside, other=0.0)) * scale
        tl.store(base + at, g.to(tl.bfloat16), mask=inside)


@triton.jit
def adam_kernel(x_, mean_, square_, g_, scales, out, rate, fix1, fix2, floor, count, blocks,
                ENDS: tl.constexpr, BLOCK: tl.constexpr):
    """Latents in [-1, 1], whose signs come out; or levels, whose nearest int4 codes times scale."""
    student = tl.program_id(0) // blocks
    at = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    i = student.to(tl.int64) * count + at
    x = tl.load(x_ + i, mask=inside, other=0.0)
    mean = tl.load(mean_ + i, mask=inside, other=0.0)
    square = tl.load(square_ + i, mask=inside, other=0.0)
    g = tl.load(g_ + i, mask=inside, other=0.0).to(tl.float32)
    if ENDS:
        scale = tl.load(scales + at // 32, mask=inside, other=0.0)
        g = g * scale
    mean += 0.1 * (g - mean)
    square += 0.01 * (g * g - square)
    step = tl.load(rate + student) * mean * tl.load(fix1)
    x -= step / (tl.sqrt(square * tl.load(fix2)) + tl.load(floor + student))
    if ENDS:
        x = tl.minimum(tl.maximum(x, -8.4), 7.4)
        y = tl.minimum(tl.maximum(tl.floor(x + 0.5), -8.0), 7.0) * scale
    else:
        x = tl.minimum(tl.maximum(x, -1.0), 1.0)
        y = tl.where(x >= 0, 1.0, -1.0)
    tl.store(x_ + i, x, mask=inside)
    tl.store(mean_ + i, mean, mask=inside)
    tl.store(square_ + i, square, mask=inside)
    tl.store(out + i, y.to(tl.bfloat16), mask=inside)


class HeadDivergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, table, p, entropy):
        logits = torch.bmm(hidden, table.transpose(1, 2))
        students, rows, count = logits.shape
        loss = torch.empty(students, rows, device=DEVICE)
        divergence_kernel[(students * rows,)](
            logits, p, entropy, loss, rows, count, 1.0 / rows, BLOCK=4096, num_warps=8)
        ctx.save_for_backward(logits, hidden, table)
        return loss

    @staticmethod
    def backward(ctx, _):
        gradient, hidden, table = ctx.saved_tensors
        return torch.bmm(gradient, table), torch.bmm(gradient.transpose(1, 2), hidden), None, None


class LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, table, tokens):
        ctx.save_for_backward(tokens)
        ctx.shape = table.shape
        return table[:, tokens].float()

    @staticmethod
    def backward(ctx, gradient):
        total = torch.zeros(ctx.shape, device=DEVICE, dtype=BF16)
        return total.index_add_(1, ctx.saved_tensors[0], gradient.to(BF16)), None


# The model, in pieces that torch.compile() makes one kernel each.

ANGLES = torch.arange(WINDOW)[:, None] / 10000.0 ** (torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
COS = torch.cat([ANGLES.cos(), ANGLES.cos()], -1).to(DEVICE)
SIN = torch.cat([ANGLES.sin(), ANGLES.sin()], -1).to(DEVICE)


def rotated(x, cos, sin):
    a, b = x[..., : HEAD_DIM // 2], x[..., HEAD_DIM // 2 :]
    return x * cos + torch.cat([-b, a], -1) * sin


def normed(x):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5)


@torch.compile(dynamic=False)
def norm_in(x, weight):
    return (normed(x) * weight).to(BF16)


@torch.compile(dynamic=False)
def scale_in(x, scale):
    return (x * scale).to(BF16)


@torch.compile(dynamic=False)
def add_out(x, y, scale):
    return x + y * scale


@torch.compile(dynamic=False)
def swiglu_in(y, post, pre):
    y = y * post
    return (F.silu(y[..., :WIDE]) * y[..., WIDE:] * pre).to(BF16)


@torch.compile(dynamic=False)
def qkv_in(y, post, windows):
    shape = (y.shape[0] * windows, WINDOW, 3, HEADS, HEAD_DIM)
    q, k, v = (y * post).view(shape).permute(2, 0, 3, 1, 4)
    return rotated(q, COS, SIN).to(BF16), rotated(k, COS, SIN).to(BF16), v.to(BF16)


class Teacher:
    def __init__(self, path):
        stored = read_tensors(path)
        get = lambda name: floats_of(stored[name + ".weight"])
        self.table, self.norm, self.layers = get("model.embed_tokens"), get("model.norm"), []
        for i in range(LAYERS):
            at = f"model.layers.{i}."
            self.layers.append({
                "qkv": torch.cat([get(f"{at}self_attn.{n}_proj") for n in "qkv"]).t(),
                "o": get(at + "self_attn.o_proj").t(),
                "gate_up": torch.cat([get(f"{at}mlp.{n}_proj") for n in ("gate", "up")]).t(),
                "down": get(at + "mlp.down_proj").t(),
                "first": get(at + "input_layernorm"),
                "second": get(at + "post_attention_layernorm"),
            })

    def logits(self, x, attend):
        for i, layer in enumerate(self.layers):
            x = x + attend(i, (normed(x) * layer["first"]) @ layer["qkv"]) @ layer["o"]
            gate, up = ((normed(x) * layer["second"]) @ layer["gate_up"]).split(WIDE, -1)
            x = x + (F.silu(gate) * up) @ layer["down"]
        return (normed(x) * self.norm) @ self.table.t()

    @torch.no_grad()
    def targets(self, windows):
        """Probabilities [tokens, vocab] and sum p log p."""
        def attend(_, qkv):
            q, k, v = qkv.view(len(windows), WINDOW, 3, HEADS, HEAD_DIM).permute(2, 0, 3, 1, 4)
            q, k = rotated(q, COS, SIN).to(BF16), rotated(k, COS, SIN).to(BF16)
            out = F.scaled_dot_product_attention(q, k, v.to(BF16), is_causal=True)
            return out.transpose(1, 2).reshape(-1, HIDDEN).float()

        logs = torch.log_softmax(self.logits(self.table[windows.reshape(-1)], attend), -1)
        p = logs.exp()
        return p, (p * logs).sum(-1)

    @torch.no_grad()
    def write(self, count, generator, batch=4096):
        """Windows drawn from the teacher at temperature 1."""
        mask = torch.ones(WINDOW, WINDOW, dtype=torch.bool, device=DEVICE).tril()
        written = []
        for first in range(0, count, batch):
            n = min(batch, count - first)
            keys = torch.zeros(LAYERS, n, HEADS, WINDOW, HEAD_DIM, device=DEVICE, dtype=BF16)
            values = torch.zeros_like(keys)
            token = torch.ones(n, device=DEVICE, dtype=torch.long)
            window = torch.empty(n, WINDOW, device=DEVICE, dtype=torch.long)
            for position in range(WINDOW):
                window[:, position] = token

                def attend(i, qkv):
                    q, k, v = qkv.view(n, 3, HEADS, HEAD_DIM).unbind(1)
                    cos, sin = COS[position], SIN[position]
                    keys[i, :, :, position] = rotated(k, cos, sin).to(BF16)
                    values[i, :, :, position] = v.to(BF16)
                    q = rotated(q, cos, sin).to(BF16)[:, :, None]
                    out = F.scaled_dot_product_attention(
                        q, keys[i], values[i], attn_mask=mask[position].view(1, 1, 1, WINDOW))
                    return out.reshape(n, HIDDEN).float()

                logits = self.logits(self.table[token], attend)
                noise = torch.rand(logits.shape, device=DEVICE, generator=generator)
                token = (logits - torch.log(-torch.log(noise.clamp_(1e-20)))).argmax(-1)
            written.append(window)
        return torch.cat(written) if written else torch.empty(0, WINDOW, device=DEVICE).long()


class Students:
    """One for each of `rates`: {"latent": 2e-3, "scale": 2e-3, "end": 0}, or a part of that."""

    def __init__(self, path, rates, teacher, steps):
        stored = read_tensors(path)
        self.count, self.steps = len(rates), steps
        rate = lambda name, usual: torch.tensor(
            [float(r.get(name, usual)) for r in rates], device=DEVICE)
        self.rates = {n: rate(n, u) for n, u in (("latent", 2e-3), ("scale", 2e-3), ("end", 0.0))}
        self.done = torch.zeros((), device=DEVICE)
        self.signs, self.vectors, self.layers = [], [], []
        generator = torch.Generator(device=DEVICE).manual_seed(0)

        def matrix(signs):
            start = signs * 0.3 * torch.rand(signs.shape, device=DEVICE, generator=generator)
            latent = start[None].repeat(self.count, 1, 1)
            out = signs[None].repeat(self.count, 1, 1).to(BF16).requires_grad_()
            self.signs.append((latent, torch.zeros_like(latent), torch.zeros_like(latent), out))
            return out

        def vector(values):
            self.vectors.append(values)
            return len(self.vectors) - 1

        for i in range(LAYERS):
            at = f"model.layers.{i}."
            layer = {}
            for name, full in (("qkv", "self_attn.qkv_proj"), ("o", "self_attn.o_proj"),
                               ("gate_up", "mlp.gate_up_proj"), ("down", "mlp.down_proj")):
                u, v, post, pre = factored_of(stored[at + full + ".packed"])
                one = torch.ones(v.shape[1], device=DEVICE) if pre is None else pre
                layer[name] = (matrix(u), matrix(v), vector(post), vector(one))
            layer["first"] = vector(floats_of(stored[at + "input_layernorm.weight"]))
            layer["second"] = vector(floats_of(stored[at + "post_attention_layernorm.weight"]))
            self.layers.append(layer)
        self.norm = floats_of(stored["model.norm.weight"])
        self.size = torch.cat([torch.maximum(v.abs(), 0.1 * v.abs().mean()) for v in self.vectors])
        relative = torch.cat(self.vectors) / self.size
        self.relative = relative[None].repeat(self.count, 1).requires_grad_()
        self.moments = [torch.zeros(self.relative.shape, device=DEVICE) for _ in range(2)]
        codes, self.scales = int4_of(stored["model.embed_tokens.int4"])
        wide = self.scales.repeat_interleave(GROUP, 1)
        level = teacher.table / wide.clamp_min(1e-12)
        level = torch.minimum(torch.maximum(level, codes - 0.49), codes + 0.49)
        self.level = level[None].repeat(self.count, 1, 1)
        self.level_moments = [torch.zeros_like(self.level) for _ in range(2)]
        self.table = (codes * wide)[None].repeat(self.count, 1, 1).to(BF16).requires_grad_()
        # Rows that hardly matter to a step would else move as far as any other.
        self.floor = torch.full((self.count,), 1e-12, device=DEVICE)

    def hidden(self, windows):
        parts = (self.relative * self.size).split([len(v) for v in self.vectors], 1)
        vectors = [part[:, None, :] for part in parts]

        def product(x, linear):
            return torch.bmm(torch.bmm(x, linear[1].transpose(1, 2)), linear[0].transpose(1, 2))

        x = LookUp.apply(self.table, windows.reshape(-1))
        for layer in self.layers:
            qkv, o, gate_up, down = (layer[n] for n in ("qkv", "o", "gate_up", "down"))
            y = product(norm_in(x, vectors[layer["first"]]), qkv)
            q, k, v = qkv_in(y, vectors[qkv[2]], len(windows))
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            mixed = mixed.transpose(1, 2).reshape(x.shape)
            x = add_out(x, product(scale_in(mixed, vectors[o[3]]), o), vectors[o[2]])
            y = product(norm_in(x, vectors[layer["second"]]), gate_up)
            wide = swiglu_in(y, vectors[gate_up[2]], vectors[down[3]])
            x = add_out(x, product(wide, down), vectors[down[2]])
        return norm_in(x, self.norm)

    def divergence(self, windows, targets):
        return HeadDivergence.apply(self.hidden(windows), self.table, *targets)

    def step(self, loss, first):
        leaves = [signs[3] for signs in self.signs] + [self.relative, self.table]
        *gradients, relative, table = torch.autograd.grad(loss.sum(), leaves)
        warm = torch.clamp((self.done + 1) / 10, max=1.0)
        share = warm * 0.5 * (1 + torch.cos(math.pi * self.done / self.steps))
        fix1, fix2 = 1 / (1 - 0.9 ** (self.done + 1)), 1 / (1 - 0.99 ** (self.done + 1))
        none = torch.full((self.count,), 1e-12, device=DEVICE)
        with torch.no_grad():
            if first:
                wide = self.scales.repeat_interleave(GROUP, 1)
                self.floor.copy_(0.1 * (table.float() * wide).pow(2).mean((1, 2)).sqrt())

            def adam(x, mean, square, gradient, out, rate, floor, ends):
                count = x[0].numel()
                blocks = -(-count // 1024)
                adam_kernel[(self.count * blocks,)](
                    x, mean, square, gradient.contiguous(), self.scales, out, rate, fix1, fix2,
                    floor, count, blocks, ENDS=ends, BLOCK=1024)

            for (latent, mean, square, out), gradient in zip(self.signs, gradients):
                adam(latent, mean, square, gradient, out, self.rates["latent"] * share, none, False)
            adam(self.level, *self.level_moments, table, self.table, self.rates["end"] * share,
                 self.floor, True)
            mean, square = self.moments
            mean += 0.1 * (relative - mean)
            square += 0.01 * (relative * relative - square)
            rate = (self.rates["scale"] * share)[:, None]
            self.relative -= rate * mean * fix1 / ((square * fix2).sqrt() + 1e-12)
            self.done += 1

    @torch.no_grad()
    def perplexities(self, windows):
        total = torch.zeros(self.count, device=DEVICE)
        for pair in windows.split(2):
            hidden = self.hidden(pair)
            for s in range(self.count):
                logits = (hidden[s] @ self.table[s].t()).float().view(-1, WINDOW, VOCAB)
                total[s] += F.cross_entropy(
                    logits[:, :-1].reshape(-1, VOCAB), pair[:, 1:].reshape(-1), reduction="sum")
        return (total / (len(windows) * (WINDOW - 1))).exp().tolist()


def windows_of(path, tokenizer):
    text = open(path, encoding="utf-8", newline="").read()
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    whole = len(ids) // (WINDOW - 1)
    body = torch.tensor(ids[: whole * (WINDOW - 1)]).view(whole, WINDOW - 1)
    return torch.cat([torch.ones(whole, 1, dtype=torch.long), body], 1).to(DEVICE)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--teacher", required=True, help="directory of the original")
    parser.add_argument("--start", required=True, help="directory of the compressed model")
    parser.add_argument("--text", required=True)
    parser.add_argument("--students", required=True, help="JSON: a list of rates")
    parser.add_argument("--steps", type=int, default=15000)
    parser.add_argument("--windows", type=int, default=2, help="of 256 tokens, a step")
    parser.add_argument("--written", type=int, default=2_000_000, help="tokens of the teacher's")
    options = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    windows = windows_of(
        options.text, tokenizers.Tokenizer.from_file(options.teacher + "/tokenizer.json"))
    judged, training, held_out = windows[:64], windows[64:-16], windows[-16:]
    teacher = Teacher(options.teacher + "/model.safetensors")
    generator = torch.Generator(device=DEVICE).manual_seed(5)
    training = torch.cat([training, teacher.write(options.written // WINDOW, generator)])
    rates = json.loads(options.students)
    students = Students(options.start + "/model.safetensors", rates, teacher, options.steps)
    needed = options.steps * options.windows
    rounds = [torch.randperm(len(training)) for _ in range(needed // len(training) + 1)]
    order = torch.cat(rounds)[:needed].view(-1, options.windows).to(DEVICE)
    at = torch.zeros(1, device=DEVICE, dtype=torch.long)

    def step(first=False):
        chosen = training[order.index_select(0, at).view(-1)]
        students.step(students.divergence(chosen, teacher.targets(chosen)), first)
        at.add_(1)

    def report(done, seconds):
        parts = held_out.split(options.windows)
        with torch.no_grad():
            sums = [students.divergence(p, teacher.targets(p)).sum(1) for p in parts]
        losses = (sum(sums) / held_out.numel()).tolist()
        print(f"{done} steps, {seconds:.1f} s", flush=True)
        for own, loss, perplexity in zip(rates, losses, students.perplexities(judged)):
            print(f"  {json.dumps(own)}: held-out KL {loss:.4f}, perplexity {perplexity:.3f}")

    report(0, 0.0)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for warm in range(3):
            step(warm == 0)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    started = time.time()
    marks = {round(options.steps * share) for share in (0.1, 0.25, 0.5, 0.75, 1.0)}
    for done in range(4, options.steps + 1):
        graph.replay()
        if done in marks:
            torch.cuda.synchronize()
            report(done, time.time() - started)


if __name__ == "__main__":
    main()
