/**
 * A compressed file, read back by a reader that shares no code with the engine: the same weights to
 * the bit, the same bits counted, the layout the GPU and mmap rely on.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

import { nativeAddon } from "../lib/native.js";
import {
  type Matrix,
  readGroups,
  readPacked,
  readSafetensors,
  readTables,
} from "./support/packed-reader.js";
import { mixedLinears, writeMixedModel } from "./support/packed-writer.js";
import { safetensorsFile } from "./support/safetensors-writer.js";

const source = join(import.meta.dirname, "fixtures/models/tiny-llama3");
const config = JSON.parse(readFileSync(join(source, "config.json"), "utf8"));
const folder = mkdtempSync(join(tmpdir(), "subbit-packed-"));

async function compressTiny(out: string, ends = { embeddings: 4, lmHead: 0 }): Promise<void> {
  const window = Int32Array.from({ length: 48 }, (_, i) => (i === 0 ? 1 : 3 + ((i * 29) % 60)));
  const request = {
    source,
    out,
    // The narrow matrices of this model cannot go lower: rank 32 of 32 columns.
    target: { unit: "bodyBits" as const, amount: 6 },
    calibration: [window, window.map((id) => (id === 1 ? 1 : 69 - id))],
    effort: "fast" as const,
    ends,
    seed: 7n,
    threads: 1,
    state: `${out}.state`,
  };
  await nativeAddon().compress(request, () => {}).promise;
}

describe("a compressed file and an independent reader", () => {
  const out = join(folder, "model");
  const read = () => readSafetensors(join(out, "model.safetensors"));
  beforeAll(() => compressTiny(out));
  afterAll(() => rmSync(folder, { recursive: true }));

  it("gives the engine's weights to the bit, for every packed and grouped tensor", async () => {
    const kinds = new Set<string>();
    for (const tensor of read().tensors) {
      const kind = tensor.name.split(".").at(-1) ?? "";
      let ours: Matrix;
      if (kind === "packed") ours = readPacked(tensor.bytes);
      else if (kind.startsWith("int")) {
        const bits = Number(kind.slice("int".length));
        ours = readGroups(tensor.bytes, config.vocab_size, config.hidden_size, bits);
      } else continue;
      kinds.add(kind);
      const engine = await nativeAddon().unpackTensor(out, tensor.name);
      expect([engine.rows, engine.cols]).toEqual([ours.rows, ours.cols]);
      const difference = engine.values.findIndex((value, i) => !Object.is(value, ours.values[i]));
      expect([tensor.name, difference]).toEqual([tensor.name, -1]);
    }
    expect([...kinds].sort()).toEqual(["int4", "packed"]);
  });

  it.each([
    [3, 8],
    [2, 3],
  ])("gives the engine's embeddings of %d and head of %d bits to the bit", async (...widths) => {
    const other = join(folder, widths.join());
    await compressTiny(other, { embeddings: widths[0], lmHead: widths[1] });
    const { tensors } = readSafetensors(join(other, "model.safetensors"));
    const names = [`model.embed_tokens.int${widths[0]}`, `lm_head.int${widths[1]}`];
    for (const [i, name] of names.entries()) {
      const bytes = tensors.find((tensor) => tensor.name === name)?.bytes ?? new Uint8Array();
      const ours = readGroups(bytes, config.vocab_size, config.hidden_size, widths[i] ?? 0);
      const engine = await nativeAddon().unpackTensor(other, name);
      expect([name, engine.values.findIndex((v, at) => !Object.is(v, ours.values[at]))]).toEqual([
        name,
        -1,
      ]);
    }
  });

  it("counts the bits that inspect() reports", async () => {
    const { tensors, fileBytes } = read();
    const inspection = await nativeAddon().inspect(out);
    const body = tensors.filter((tensor) => tensor.name.startsWith("model.layers."));
    const bodyBytes = body.reduce((sum, tensor) => sum + tensor.bytes.length, 0);
    const c = config;
    const q = c.num_attention_heads * c.head_dim;
    const kv = c.num_key_value_heads * c.head_dim;
    const layer = c.hidden_size * (2 * q + 2 * kv + 3 * c.intermediate_size);
    const weights = c.num_hidden_layers * layer;
    expect(inspection.bitsPerWeightBody).toBe((8 * bodyBytes) / weights);
    expect(inspection.bytes).toBe(fileBytes);
    expect(inspection.bitsPerWeightFile).toBe((8 * fileBytes) / inspection.parameters);
    const stated = JSON.parse(readFileSync(join(out, "config.json"), "utf8")).quantization_config;
    expect(stated).toMatchObject({ quant_method: "subbit", layout_version: 1 });
    expect(stated.bits_per_weight.body).toBeCloseTo(inspection.bitsPerWeightBody, 6);
  });

  it("starts its data on a 16 KiB page and every packed tensor on its own alignment", () => {
    const { tensors } = read();
    expect(Math.min(...tensors.map((tensor) => tensor.fileOffset)) % 16384).toBe(0);
    for (const tensor of tensors.filter((each) => each.name.endsWith(".packed"))) {
      expect([tensor.name, tensor.fileOffset % 32]).toEqual([tensor.name, 0]);
    }
  });

  it("is the same file for the same seed", async () => {
    const again = join(folder, "again");
    await compressTiny(again);
    const first = readFileSync(join(out, "model.safetensors"));
    expect(first.equals(readFileSync(join(again, "model.safetensors")))).toBe(true);
  });
});

describe("a file of every term kind and an independent reader", () => {
  const directory = writeMixedModel();
  const path = join(directory, "model.safetensors");
  const { tensors, fileBytes } = readSafetensors(path);
  const packed = tensors.filter((tensor) => tensor.name.endsWith(".packed"));

  it("gives the engine's weights to the bit", async () => {
    expect(packed.length).toBe(Object.keys(mixedLinears).length);
    for (const tensor of packed) {
      const ours = readPacked(tensor.bytes, readTables(tensors));
      const engine = await nativeAddon().unpackTensor(directory, tensor.name);
      expect([engine.rows, engine.cols]).toEqual([ours.rows, ours.cols]);
      const difference = engine.values.findIndex((value, i) => !Object.is(value, ours.values[i]));
      expect([tensor.name, difference]).toEqual([tensor.name, -1]);
    }
  });

  it("counts shared tables among the body's bytes and says what linears are made of", async () => {
    const inspection = await nativeAddon().inspect(directory);
    const body = tensors.filter((tensor) => /^model\.(layers|tables)\./.test(tensor.name));
    const bodyBytes = body.reduce((sum, tensor) => sum + tensor.bytes.length, 0);
    const weights = Object.values(mixedLinears).reduce(
      (sum, { rows, cols }) => sum + rows * cols,
      0,
    );
    expect(body.filter((tensor) => tensor.name.startsWith("model.tables.")).length).toBe(3);
    expect(inspection.bitsPerWeightBody).toBe((8 * bodyBytes) / weights);
    expect(inspection.bytes).toBe(fileBytes);
    const formats = Object.fromEntries(
      inspection.tensors.map(({ name, format }) => [name.split(".").slice(4).join("."), format]),
    );
    expect(formats).toMatchObject({
      "qkv_proj.packed": "packed: table d=8 cols 0-63 + code84 cols 64-319",
      "gate_up_proj.packed": "packed: factored r=32 + table d=4",
      "down_proj.packed": "packed: table d=8",
    });
  });

  it("computes with integers what its weights say as floats", async () => {
    const window = Int32Array.from({ length: 60 }, (_, i) => (i === 0 ? 1 : 3 + ((i * 29) % 290)));
    const perplexity = async (unpackToFloat: boolean) => {
      const request = { path: directory, teacherPath: "", windows: [window], threads: 2 };
      const job = nativeAddon().evaluate({ ...request, unpackToFloat }, () => {});
      return (await job.promise).perplexity;
    };
    const [integers, floats] = [await perplexity(false), await perplexity(true)];
    expect(floats).toBeGreaterThan(1);
    // Activations keep 8 bits: about half a percent of noise on each linear's output.
    expect(Math.abs(integers / floats - 1)).toBeLessThan(0.05);
  });

  it("is refused without a table that it names, and with one that nothing names", async () => {
    const request = { path: directory, threads: 1, contextLength: 0, kvCache: "f16" as const };
    const loadRequest = { ...request, unpackToFloat: false };
    const load = async () =>
      (await nativeAddon().loadModel(loadRequest, () => {}).promise).dispose();
    const write = (kept: typeof tensors) => writeFileSync(path, safetensorsFile(kept));
    write(tensors.filter((tensor) => tensor.name !== "model.tables.1"));
    await expect(load()).rejects.toThrow(/shared table 1 is missing.*qkv_proj/);
    const spare = { ...tensors.find(({ name }) => name === "model.tables.0") };
    write([...tensors, { ...spare, name: "model.tables.7" } as (typeof tensors)[number]]);
    await expect(load()).rejects.toThrow(/no part of the model uses.*model\.tables\.7/);
    write(tensors);
    await load();
  });
});
