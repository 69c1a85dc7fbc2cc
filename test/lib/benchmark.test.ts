/** benchmark() around the engine: what it asks of it, and what it makes of the answers. */
import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { benchmark } from "../../lib/index.js";
import { injectAddon } from "../../lib/native.js";
import { FakeAddon, nativeError } from "../support/fake-addon.js";
import { writeTinyModel } from "../support/tiny-model.js";

const model = writeTinyModel();
let addon: FakeAddon;
beforeEach(() => {
  addon = new FakeAddon();
  addon.says = [5, 6, 7, 8, 9, 10, 11, 12];
  injectAddon(addon);
});
afterEach(() => injectAddon(undefined));

describe("benchmark", () => {
  test("counts the forward passes that were timed, and the bytes that they read", async () => {
    const report = await benchmark(model, { promptTokens: 6, generateTokens: 4 });
    // The fake says that a prefill takes 2 ms with one token cached, and decoding 4 ms.
    expect(report).toMatchObject({
      position: 0,
      repeats: 3,
      loadMs: 3,
      prefill: { median: 2_500, spread: 0 },
      decode: { median: 1_000, spread: 0 },
      prefillCpu: { median: 0.0006 },
      decodeCpu: { median: 0.0015 },
      peakRssBytes: 123_456,
      // 4,000 of weights; of the passes at positions 6 to 9 the middle looks back on 8.5.
      bytesPerToken: 4_085,
      bandwidth: 2e9,
    });
    expect(report.bandwidthFraction).toBeCloseTo((1_000 * 4_085) / 2e9);
    expect(report.device).toMatchObject({ backend: "cpu", threads: 1 });
    expect(addon.loads).toMatchObject([{ device: "auto" }]);
    expect(addon.requests.map(({ maxTokens }) => maxTokens)).toEqual([2, 5, 5, 5]);
    expect(addon.fills).toEqual([]);
    expect(addon.disposals).toBe(1);
  });

  test("no two runs have a first token in common, which would be found in the cache", async () => {
    await benchmark(model, { promptTokens: 6, generateTokens: 4, repeats: 5 });
    const firsts = addon.requests.map(({ prompt }) => prompt[0]);
    expect(new Set(firsts).size).toBe(6);
    for (const { prompt } of addon.requests) {
      for (const token of prompt) expect(token).toBeLessThan(400);
    }
  });

  test("at the end of a filled context every prompt begins with what was filled", async () => {
    const report = await benchmark(model, {
      promptTokens: 6,
      generateTokens: 4,
      fillContext: true,
    });
    expect(report.position).toBe(6);
    expect(addon.fills).toEqual([6]);
    const [, ...timed] = addon.requests;
    for (const { prompt } of timed) {
      expect([...prompt.subarray(0, 6)]).toEqual([0, 0, 0, 0, 0, 0]);
      expect(prompt[6]).not.toBe(0);
    }
  });

  test("what does not fit the context or is no option is refused, the model freed", async () => {
    const tooLong = benchmark(model, { promptTokens: 10, generateTokens: 7 });
    await expect(tooLong).rejects.toMatchObject({ code: "INVALID_OPTION" });
    expect(addon.disposals).toBe(1);
    await expect(benchmark(model, { promptTokens: 1 })).rejects.toThrow("promptTokens");
    await expect(benchmark(model, { prompt: 8 } as object)).rejects.toThrow("prompt");
    addon.failure = nativeError("CORRUPT_FILE");
    await expect(benchmark(model)).rejects.toMatchObject({ code: "CORRUPT_FILE" });
  });

  test("aborts with the signal's reason", async () => {
    const control = new AbortController();
    const running = benchmark(model, {
      promptTokens: 6,
      generateTokens: 4,
      signal: control.signal,
      onProgress: ({ phase }) => {
        if (phase === "measure") control.abort(new Error("enough"));
      },
    });
    await expect(running).rejects.toThrow("enough");
    expect(addon.disposals).toBe(1);
  });
});
