/** Estimates before loading, against the real engine. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { describe, expect, test } from "vitest";

import { estimateMemory, exampleModel, loadModel, systemMemory } from "../../lib/index.js";
import { tokenizerBytesOfJson } from "../../lib/memory.js";
import { bytesOf } from "../../lib/options.js";
import { temporaryDirectory } from "../support/tiny-model.js";

describe("estimateMemory", () => {
  test("is the sum of its items, and more context is more memory", async () => {
    const short = await estimateMemory(exampleModel, { contextLength: 64 });
    const long = await estimateMemory(exampleModel, { contextLength: 256 });
    const sum = Object.values(short.items).reduce((total, bytes) => total + bytes, 0);
    expect(sum).toBe(short.totalBytes);
    expect(short.mappedBytes + short.footprintBytes).toBe(short.totalBytes);
    expect(long.items.kvCache).toBe(4 * short.items.kvCache);
    expect(long.totalBytes).toBeGreaterThan(short.totalBytes);
    expect(short.confidence).toBe("high");
  });

  test("a budget binds, is named, and says what would fit", async () => {
    const whole = await estimateMemory(exampleModel);
    const memoryBudget = whole.totalBytes - whole.items.kvCache / 2;
    const { fits, maxContextLength } = await estimateMemory(exampleModel, { memoryBudget });
    expect(fits).toMatchObject({ ok: false, limitBytes: memoryBudget, limitSource: "budget" });
    expect(fits.marginBytes).toBeLessThan(0);
    expect(maxContextLength).toBeGreaterThan(0);
    expect(maxContextLength).toBeLessThan(whole.contextLength);
    expect(fits.reasons.join(" ")).toContain(`context of ${maxContextLength} would fit`);
    const shrunk = { memoryBudget, contextLength: maxContextLength };
    // The process itself may have grown a little in between.
    expect((await estimateMemory(exampleModel, shrunk)).totalBytes).toBeLessThan(
      memoryBudget + 8e6,
    );
  });

  test("knows shapes by name, of which it says that it is less sure", async () => {
    const options = { contextLength: 4096, memoryBudget: "8GB", bitsPerWeight: 0.8 };
    const estimate = await estimateMemory("llama-2-7b", options);
    expect(estimate).toMatchObject({ confidence: "low", architecture: "llama" });
    // 32 layers of 4096 keys and values of two bytes for each position.
    expect(estimate.items.kvCache).toBe(2 * 2 * 32 * 4096 * 4096);
    expect(estimate.bitsPerWeightBody).toBeCloseTo(0.8, 3);
    expect(estimate.parameters).toBe(6_738_415_616);
  });

  test("reads a directory whose weights end behind their header", async () => {
    const directory = temporaryDirectory();
    const weights = readFileSync(join(exampleModel, "model.safetensors"));
    const end = 8 + Number(weights.readBigUInt64LE());
    writeFileSync(join(directory, "model.safetensors"), weights.subarray(0, end));
    const config = readFileSync(join(exampleModel, "config.json"));
    writeFileSync(join(directory, "config.json"), config);
    const headers = await estimateMemory(directory);
    const whole = await estimateMemory(exampleModel);
    expect(headers.mappedBytes).toBe(whole.mappedBytes);
    // No tokenizer lies there.
    expect(headers.items.tokenizer).toBe(0);
    expect(whole.items.tokenizer).toBeGreaterThan(50e6);
  });

  test("refuses what is neither a model nor a shape, and options that say nothing", async () => {
    await expect(estimateMemory("llama-9b")).rejects.toMatchObject({ code: "FILE_ERROR" });
    for (const memoryBudget of ["much", "4 GX", "-1GB", 0, -1, Number.NaN, "0GB"]) {
      const estimating = estimateMemory(exampleModel, { memoryBudget });
      await expect(estimating).rejects.toMatchObject({ code: "INVALID_OPTION" });
    }
  });
});

describe("loadModel", () => {
  test("over its budget it fails before anything is loaded, with every part", async () => {
    const { totalBytes } = await estimateMemory(exampleModel);
    const loading = loadModel(exampleModel, { memoryBudget: totalBytes - 2e6 });
    await expect(loading).rejects.toMatchObject({
      code: "INSUFFICIENT_MEMORY",
      details: {
        limit_source: "budget",
        kv_cache_bytes: expect.stringMatching(/^\d+$/),
        max_context_length: expect.stringMatching(/^\d+$/),
      },
    });
  });

  test("shrinks its context where it may, and runs in it", async () => {
    const { totalBytes, items } = await estimateMemory(exampleModel);
    await using model = await loadModel(exampleModel, {
      memoryBudget: Math.round(totalBytes - items.kvCache / 2),
      onInsufficientMemory: "shrink-context",
    });
    expect(model.info.contextLength).toBeLessThan(256);
    const { text } = await model.generate("Once", { maxTokens: 4 });
    expect(text).not.toBe("");
    const { planned, process, unplannedBytes } = model.memory();
    expect(unplannedBytes).toBe(0);
    expect(planned.contextLength).toBe(model.info.contextLength);
    expect(process.residentBytes).toBeGreaterThan(process.fileBytes);
  });
});

test("systemMemory says what there is", async () => {
  const system = await systemMemory();
  expect(system.physicalBytes).toBeGreaterThan(2 ** 28);
  expect(system.availableBytes).toBeLessThanOrEqual(system.physicalBytes);
});

test.each([
  [4e9, 4e9],
  ["4GB", 4e9],
  ["4 GiB", 4 * 2 ** 30],
  ["1.5MB", 1_500_000],
  ["512kib", 524_288],
  ["100", 100],
  ["100 B", 100],
])("%j is %d bytes", (text, bytes) => {
  expect(bytesOf("memoryBudget", text)).toBe(bytes);
});

test("what a tokenizer takes grows with its file", () => {
  // Measured: megabytes of tokenizer.json, megabytes that the process grew by.
  for (const [size, grown] of [
    [0.012, 12.8],
    [0.086, 18.5],
    [0.187, 27.1],
    [1.56, 72.3],
    [1.8, 85.8],
    [5.65, 199.1],
  ] as const) {
    const planned = tokenizerBytesOfJson(size * 1e6) / 1e6;
    expect(planned).toBeGreaterThanOrEqual(grown - 0.1);
    expect(planned).toBeLessThan(grown + 16);
  }
});
