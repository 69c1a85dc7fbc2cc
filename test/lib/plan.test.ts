import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { planCompression } from "../../lib/index.js";
import { injectAddon } from "../../lib/native.js";
import { FakeAddon, nativeError } from "../support/fake-addon.js";
import { temporaryDirectory, writeTinyModel } from "../support/tiny-model.js";

let addon: FakeAddon;
beforeEach(() => {
  addon = new FakeAddon();
  injectAddon(addon);
});
afterEach(() => injectAddon(undefined));

const target = { bytes: "5.8MB" };

describe("planCompression", () => {
  test("asks for the form, and for the cost of the text that each effort would use", async () => {
    const calibration = ["the cat and the cat. ".repeat(3000)];
    const source = writeTinyModel();
    const options = { target, calibration, keep: { "*": 8 }, cacheDir: temporaryDirectory() };
    const plan = await planCompression(source, options);
    expect(plan).toMatchObject({ bytes: 7, memory: { bytes: 9, contextLength: 16 } });
    const [request] = addon.plans;
    expect(request).toMatchObject({
      source,
      target: { unit: "fileBytes", amount: 5.8e6 },
      keep: [{ pattern: "*", rule: "bits", bits: 8 }],
      ends: { embeddings: 4, lmHead: 0 },
      forms: "factored",
    });
    // "fast" asks for 16,384 tokens, the others for more than there are. The windows hold 15.
    const { fast, balanced, max } = request?.calibration ?? {};
    expect(fast).toEqual({ windows: 1092, tokens: 1092 * 16 });
    expect(balanced?.tokens).toBeGreaterThan(fast?.tokens ?? 0);
    expect(max).toEqual(balanced);
  });

  test("without text lets the model write none", async () => {
    await planCompression(writeTinyModel(), { target });
    expect(addon.loads).toEqual([]);
    expect(addon.plans[0]?.calibration.fast).toEqual({ windows: 256, tokens: 4096 });
  });

  test("throws what the engine refuses, and the reason of its signal", async () => {
    const signal = AbortSignal.abort("enough");
    await expect(planCompression(writeTinyModel(), { target, signal })).rejects.toBe("enough");
    addon.failure = nativeError("INVALID_OPTION", "too small", { option: "target.bytes" });
    await expect(planCompression(writeTinyModel(), { target })).rejects.toMatchObject({
      code: "INVALID_OPTION",
      details: { option: "target.bytes" },
    });
  });
});
