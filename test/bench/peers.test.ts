/** The random models that peers are given: that they are files as GGUF's specification has them. */
import { readFileSync } from "node:fs";
import { join } from "node:path";

import { describe, expect, test } from "vitest";

import {
  bytesOf,
  ggmlTypes,
  halfBits,
  obstacle,
  tensorsOf,
  writeGguf,
} from "../../bench/peers/gguf.js";
import { shapes } from "../../lib/index.js";
import { temporaryDirectory } from "../support/tiny-model.js";

const config = {
  ...shapes["stories15m"],
  ...{ hidden_size: 256, intermediate_size: 512, num_hidden_layers: 2, vocab_size: 300 },
  ...{ num_attention_heads: 4, num_key_value_heads: 2 },
};

/** A reader of the format, as far as it is used here. */
class Reader {
  at = 0;
  readonly bytes: Buffer;
  constructor(bytes: Buffer) {
    this.bytes = bytes;
  }
  u32() {
    this.at += 4;
    return this.bytes.readUInt32LE(this.at - 4);
  }
  u64() {
    this.at += 8;
    return Number(this.bytes.readBigUInt64LE(this.at - 8));
  }
  text() {
    const length = this.u64();
    this.at += length;
    return this.bytes.toString("utf8", this.at - length, this.at);
  }
  value(type = this.u32()): unknown {
    if (type === 8) return this.text();
    if (type === 9) {
      const inner = this.u32();
      return Array.from({ length: this.u64() }, () => this.value(inner));
    }
    this.at += 4;
    return type === 6 ? this.bytes.readFloatLE(this.at - 4) : this.bytes.readUInt32LE(this.at - 4);
  }
}

function read(file: string) {
  const bytes = readFileSync(file);
  const reader = new Reader(bytes);
  expect(bytes.toString("latin1", 0, 4)).toBe("GGUF");
  reader.at = 4;
  expect(reader.u32()).toBe(3);
  const tensorCount = reader.u64();
  const entryCount = reader.u64();
  const metadata: Record<string, unknown> = {};
  for (let i = 0; i < entryCount; i++) metadata[reader.text()] = reader.value();
  const tensors = Array.from({ length: tensorCount }, () => ({
    name: reader.text(),
    dims: Array.from({ length: reader.u32() }, () => reader.u64()),
    type: reader.u32(),
    offset: reader.u64(),
  }));
  return { bytes, metadata, tensors, data: Math.ceil(reader.at / 32) * 32 };
}

describe("a random GGUF model", () => {
  const types = ["Q4_0", "Q1_0", "TQ2_0"] as const;

  test.each(types)("in %s has every tensor where its header says, and nothing more", (type) => {
    const file = join(temporaryDirectory(), "model.gguf");
    const readBytes = writeGguf(file, config, type);
    const { bytes, metadata, tensors, data } = read(file);
    expect(metadata).toMatchObject({
      "general.architecture": "llama",
      "llama.block_count": 2,
      "llama.attention.head_count_kv": 2,
      "llama.rope.dimension_count": 64,
    });
    expect(metadata["tokenizer.ggml.tokens"]).toHaveLength(300);
    const planned = tensorsOf(config, type);
    let end = 0;
    for (const [i, tensor] of tensors.entries()) {
      const plan = planned[i];
      if (!plan) throw new Error("a tensor too many");
      expect(tensor.offset).toBe(Math.ceil(end / 32) * 32);
      expect(tensor.dims).toEqual(plan.rows === 1 ? [plan.cols] : [plan.cols, plan.rows]);
      expect(tensor.type).toBe(ggmlTypes[plan.type].id);
      end = tensor.offset + bytesOf(plan);
      // Of every block the scale is a normal half: no row can be infinite or not a number.
      const { bytes: size, scaleAt } = ggmlTypes[plan.type];
      for (let at = data + tensor.offset; at < data + end && scaleAt >= 0; at += size) {
        const exponent = (bytes.readUInt16LE(at + scaleAt) >> 10) & 31;
        expect(exponent > 0 && exponent < 31).toBe(true);
      }
    }
    expect(bytes.length).toBe(data + Math.ceil(end / 32) * 32);
    // Tied: the embeddings are the head, and all is read.
    expect(readBytes).toBe(planned.reduce((sum, tensor) => sum + bytesOf(tensor), 0));
  });

  test("that is not tied has a head, and its embeddings are not read", () => {
    const untied = { ...config, tie_word_embeddings: false };
    const file = join(temporaryDirectory(), "model.gguf");
    const all = tensorsOf(untied, "Q4_0").reduce((sum, tensor) => sum + bytesOf(tensor), 0);
    expect(writeGguf(file, untied, "Q4_0")).toBe(all - (300 * 256 * 18) / 32);
    expect(read(file).tensors.map(({ name }) => name)).toContain("output.weight");
  });

  test("of a width that its blocks do not divide is refused by name", () => {
    expect(obstacle(config, "TQ2_0")).toBeUndefined();
    expect(obstacle({ ...config, hidden_size: 288 }, "Q1_0")).toContain("hidden_size is 288");
  });

  test.each([
    [1, 0x3c00],
    [0.5, 0x3800],
    [65504, 0x7bff],
    [2 ** -14, 0x0400],
    [1.9999, 0x4000],
    [0.1, 0x2e66],
  ])("halves: %d", (value, bits) => {
    expect(halfBits(value)).toBe(bits);
  });

  test("a scale that is no normal half is refused", () => {
    expect(() => halfBits(2 ** -15)).toThrow(RangeError);
  });
});
