/**
 * A Llama whose linears are packed terms of every kind with random bits, for tests of what the
 * compressor may choose but for a small model never would: bytes straight from the layout's
 * description, sharing no line with the engine.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";

import { configOf, vocab } from "./random-model.js";
import { safetensorsFile, type TensorBytes } from "./safetensors-writer.js";
import { repeatableRandom, temporaryDirectory } from "./tiny-model.js";

type Random = () => number;

export type TermPlan = { first: number; columns: number; gain: number } & (
  | { kind: "sign" | "code84" }
  | { kind: "factored"; rank: number; mid?: boolean }
  | { kind: "table"; width: number; table: number }
);

export interface LinearPlan {
  rows: number;
  cols: number;
  terms: TermPlan[];
  bias?: boolean;
  pre?: boolean;
}

const tags = { sign: 1, code84: 2, factored: 3, table: 5 };

/** The words of `rows` x `bits`, random, padding zero: quads of rows, words of 32 bits. */
function words(rows: number, bits: number, random: Random): Buffer {
  const perRow = Math.ceil(bits / 32);
  const out = Buffer.alloc(16 * Math.ceil(rows / 4) * perRow);
  for (let row = 0; row < rows; row++) {
    for (let word = 0; word < perRow; word++) {
      const used = Math.min(32, bits - 32 * word);
      const value = Math.floor(random() * 2 ** used);
      out.writeUInt32LE(value, 16 * (Math.floor(row / 4) * perRow + word) + 4 * (row % 4));
    }
  }
  return out;
}

function termWords(term: TermPlan, rows: number, random: Random): Buffer[] {
  switch (term.kind) {
    case "sign":
      return [words(rows, term.columns, random)];
    case "code84":
      return [words(rows, term.columns / 2, random)];
    case "factored":
      return [words(term.rank, term.columns, random), words(rows, term.rank, random)];
    case "table":
      return [words(rows, 8 * Math.ceil(term.columns / term.width), random)];
  }
}

/** Halves in [2^13, 2^15), some of them negative. */
function halves(count: number, random: Random): Buffer {
  const out = Buffer.alloc(2 * count);
  for (let i = 0; i < count; i++) {
    out.writeUInt16LE(
      (random() < 0.2 ? 0x8000 : 0) | (0x7000 + Math.floor(random() * 0x800)),
      2 * i,
    );
  }
  return out;
}

function pad(parts: Buffer[], alignment: number): Buffer {
  const all = Buffer.concat(parts);
  return Buffer.concat([all, Buffer.alloc((alignment - (all.length % alignment)) % alignment)]);
}

export function packedLinear(plan: LinearPlan, random: Random): Buffer {
  const { rows, cols, terms } = plan;
  const head = Buffer.alloc(16 + 16 * terms.length);
  head.write("SBL1");
  head.writeUInt8(terms.length, 4);
  head.writeUInt8((plan.pre ? 1 : 0) | (plan.bias ? 2 : 0), 5);
  head.writeUInt32LE(rows, 8);
  head.writeUInt32LE(cols, 12);
  for (const [i, term] of terms.entries()) {
    const at = 16 + 16 * i;
    head.writeUInt8(tags[term.kind], at);
    head.writeUInt8(term.kind === "factored" && term.mid ? 1 : 0, at + 1);
    if (term.kind === "factored") head.writeUInt16LE(term.rank / 32, at + 2);
    if (term.kind === "table") head.writeUInt16LE(term.width | (term.table << 8), at + 2);
    head.writeUInt32LE(term.first, at + 4);
    head.writeUInt32LE(term.columns, at + 8);
    head.writeFloatLE(term.gain, at + 12);
  }
  const bias = Buffer.from(Float32Array.from({ length: plan.bias ? rows : 0 }, random).buffer);
  const vectors = [head, bias, halves(rows, random), halves(plan.pre ? cols : 0, random)];
  for (const term of terms) {
    if (term.kind === "factored" && term.mid) vectors.push(halves(term.rank, random));
  }
  const matrices = terms.flatMap((term) => termWords(term, rows, random));
  const bytes = matrices.reduce((sum, matrix) => sum + matrix.length, 0);
  const alignment = bytes >= 65536 ? 128 : 32;
  return Buffer.concat([pad(vectors, alignment), pad(matrices, alignment)]);
}

/** Gains that leave rows of scaled halves at about the size of a trained weight. */
const gain = 2 ** -18;
const hidden = 320;
const inner = 288;
const heads = 5;

/** Every kind; two terms over one column (2 bits, ternary); runs of columns, one without bits. */
export const mixedLinears: Record<string, LinearPlan> = {
  "self_attn.qkv_proj": {
    rows: 3 * hidden,
    cols: hidden,
    terms: [
      { kind: "table", width: 8, table: 1, first: 0, columns: 64, gain: gain / 64 },
      { kind: "code84", first: 64, columns: 256, gain },
    ],
  },
  "self_attn.o_proj": {
    rows: hidden,
    cols: hidden,
    pre: true,
    terms: [
      { kind: "sign", first: 0, columns: 192, gain: gain * 2 ** -15 },
      { kind: "sign", first: 0, columns: 192, gain: (gain / 2) * 2 ** -15 },
      { kind: "table", width: 16, table: 2, first: 256, columns: 64, gain: (gain / 64) * 2 ** -15 },
    ],
  },
  "mlp.gate_up_proj": {
    rows: 2 * inner,
    cols: hidden,
    bias: true,
    terms: [
      { kind: "factored", rank: 32, mid: true, first: 0, columns: hidden, gain: gain * 2 ** -16 },
      { kind: "table", width: 4, table: 0, first: 0, columns: hidden, gain: gain / 128 },
    ],
  },
  "mlp.down_proj": {
    rows: hidden,
    cols: inner,
    terms: [{ kind: "table", width: 8, table: 1, first: 0, columns: inner, gain: gain / 64 }],
  },
};

/** Writes the model of one block into a fresh directory and returns its path. */
export function writeMixedModel(linears = mixedLinears): string {
  const random = repeatableRandom(11);
  const tensors: TensorBytes[] = [];
  const tables = [4, 8, 16].map((width, number) => ({
    name: `model.tables.${number}`,
    dtype: "I8",
    shape: [256, width],
    bytes: Buffer.from(
      Int8Array.from({ length: 256 * width }, () => Math.floor(random() * 255) - 127).buffer,
    ),
  }));
  for (const [name, plan] of Object.entries(linears)) {
    const bytes = packedLinear(plan, random);
    const shape = [bytes.length];
    tensors.push({ name: `model.layers.0.${name}.packed`, dtype: "U8", shape, bytes });
  }
  tensors.push(...tables);
  const floats = (name: string, shape: number[], value: () => number) => {
    const count = shape.reduce((product, extent) => product * extent, 1);
    const values = Float32Array.from({ length: count }, value);
    tensors.push({ name, dtype: "F32", shape, bytes: Buffer.from(values.buffer) });
  };
  for (const norm of ["layers.0.input_layernorm", "layers.0.post_attention_layernorm", "norm"]) {
    floats(`model.${norm}.weight`, [hidden], () => 1);
  }
  floats("model.embed_tokens.weight", [vocab, hidden], () => random() - 0.5);
  const directory = temporaryDirectory();
  writeFileSync(join(directory, "model.safetensors"), safetensorsFile(tensors));
  const config = {
    ...configOf({ hidden, inner, layers: 1, heads, context: 64 }),
    quantization_config: { quant_method: "subbit", layout_version: 1 },
  };
  writeFileSync(join(directory, "config.json"), JSON.stringify(config));
  return directory;
}
