import { describe, expect, test } from "vitest";

import { ModelError } from "../../lib/errors.js";
import type { CompressTarget } from "../../lib/index.js";
import {
  resolveCompress,
  resolveEvaluate,
  resolveGenerate,
  resolveLoad,
  resolvePlan,
} from "../../lib/options.js";

const limits = { vocabSize: 100, contextLength: 16 };

/** The details of the INVALID_OPTION that `call` throws. */
function refusal(call: () => unknown) {
  try {
    call();
  } catch (error) {
    if (ModelError.isInstance(error) && error.code === "INVALID_OPTION") return error.details;
    throw error;
  }
  return undefined;
}

describe("generate's options", () => {
  test("without any, greedy until the context is full", () => {
    expect(resolveGenerate({}, limits)).toMatchObject({
      maxTokens: 16,
      temperature: 0,
      topK: 0,
      topP: 1,
      minP: 0,
      repetitionPenalty: 1,
      presencePenalty: 0,
      frequencyPenalty: 0,
      logitBias: [],
      stop: [],
      onAbort: "throw",
    });
  });

  test("a seed is kept, and without one no two are alike", () => {
    expect(resolveGenerate({ seed: 7 }, limits).seed).toBe(7);
    const seeds = new Set(Array.from({ length: 8 }, () => resolveGenerate({}, limits).seed));
    expect(seeds.size).toBe(8);
  });

  test.each([
    ["maxTokens", 0],
    ["maxTokens", 1.5],
    ["maxTokens", "8"],
    ["temperature", -0.1],
    ["temperature", Number.NaN],
    ["temperature", Number.POSITIVE_INFINITY],
    ["topK", -1],
    ["topP", 0],
    ["topP", 1.01],
    ["minP", 2],
    ["seed", -1],
    ["seed", 2 ** 53],
    ["repetitionPenalty", 0],
    ["stop", ""],
    ["stop", [""]],
    ["onAbort", "stop"],
    ["signal", {}],
  ])("%s: %s is refused by name", (option, value) => {
    const details = refusal(() => resolveGenerate({ [option]: value }, limits));
    expect(details?.option).toBe(option);
    expect(details?.expected).toBeTruthy();
    expect(details?.actual).toBeTruthy();
  });

  test("logitBias takes token ids of the vocabulary only", () => {
    expect(resolveGenerate({ logitBias: { 99: -1 } }, limits).logitBias).toEqual([[99, -1]]);
    for (const key of ["100", "-1", "1.5", "x", ""]) {
      expect(
        refusal(() => resolveGenerate({ logitBias: { [key]: 1 } }, limits)),
        key,
      ).toBeTruthy();
    }
    expect(refusal(() => resolveGenerate({ logitBias: { 1: Number.NaN } }, limits))).toBeTruthy();
  });

  test("a misspelled option is not silently ignored", () => {
    const options = { max_tokens: 3 } as object;
    expect(refusal(() => resolveGenerate(options, limits))?.actual).toContain("max_tokens");
  });
});

describe("the other calls' options", () => {
  test("load", () => {
    expect(resolveLoad({})).toMatchObject({ threads: 0, contextLength: 0, kvCache: "f16" });
    expect(refusal(() => resolveLoad({ threads: 0 }))?.option).toBe("threads");
    expect(resolveLoad({ kvCache: "int8" }).kvCache).toBe("int8");
    expect(resolveLoad({ promptKernel: "neon_i8mm" }).promptKernel).toBe("neon_i8mm");
    expect(resolveLoad({})).not.toHaveProperty("promptKernel");
    const numbered = { promptKernel: 8 as unknown as string };
    expect(refusal(() => resolveLoad(numbered))?.option).toBe("promptKernel");
    expect(refusal(() => resolveLoad({ kvCache: "f8" as "f16" }))?.option).toBe("kvCache");
  });

  test("a target of a compression is one of four, and bytes may be words", () => {
    const targetOf = (target: object) => resolvePlan({ target: target as CompressTarget }).target;
    expect(targetOf({ bytes: "5.8MB" })).toMatchObject({ unit: "fileBytes", amount: 5_800_000 });
    expect(targetOf({ bytes: "1.5 KiB" })).toMatchObject({ amount: 1536 });
    expect(targetOf({ bytes: 1000 })).toMatchObject({ amount: 1000 });
    expect(targetOf({ fileBitsPerWeight: 3 })).toMatchObject({ unit: "fileBits", amount: 3 });
    expect(targetOf({ fitsBudget: "4gb", contextLength: 512 })).toEqual({
      unit: "memoryBytes",
      amount: 4e9,
      contextLength: 512,
    });
    const wrong = [
      {},
      { bytes: 1, bitsPerWeight: 1 },
      { bytes: "five" },
      { bytes: "5.8.1MB" },
      { bytes: "5 QB" },
      { bytes: "-5MB" },
      { bytes: 0 },
      { bytes: 5, contextLength: 512 },
      { fitsBudget: "4GB", contextLength: 0 },
      { bits: 1 },
    ];
    for (const target of wrong) {
      expect(refusal(() => targetOf(target))?.option, JSON.stringify(target)).toMatch(/^target/);
    }
  });

  test("exceptions of a compression are named by layer", () => {
    const target = { bitsPerWeight: 0.8 };
    const keep = { "*.down_proj": "fp16", "*.o_proj": 4, "*": { atLeast: 0.7 } } as const;
    expect(resolvePlan({ target, keep }).keep).toEqual([
      { pattern: "*.down_proj", rule: "asStored", bits: 0 },
      { pattern: "*.o_proj", rule: "bits", bits: 4 },
      { pattern: "*", rule: "atLeast", bits: 0.7 },
    ]);
    for (const asked of ["fp32", 0, -1, null, { atMost: 1 }, { atLeast: 0 }]) {
      const wrong = { a: asked } as unknown as typeof keep;
      expect(refusal(() => resolvePlan({ target, keep: wrong }))?.option).toContain('keep["a"]');
    }
    const embeddings = 5 as 4;
    expect(refusal(() => resolvePlan({ target, embeddings }))?.option).toBe("embeddings");
    expect(resolvePlan({ target, embeddings: 2 }).ends).toEqual({ embeddings: 2, lmHead: 0 });
    const forms = "table" as "tables";
    expect(refusal(() => resolvePlan({ target, forms }))?.option).toBe("forms");
    expect(resolvePlan({ target }).forms).toBe("factored");
    const sensitivity = "guessed" as "measured";
    expect(refusal(() => resolvePlan({ target, sensitivity }))?.option).toBe("sensitivity");
    expect(resolvePlan({ target }).sensitivity).toBe("assumed");
  });

  test("compress", () => {
    const target = { bitsPerWeight: 0.8 };
    const plain = { out: "o", target };
    expect(resolveCompress(plain)).toMatchObject({ effort: "balanced", seed: 0, overwrite: false });
    for (const bitsPerWeight of [0, -1, 33, Number.NaN]) {
      const details = refusal(() => resolveCompress({ out: "o", target: { bitsPerWeight } }));
      expect(details?.option).toBe("target.bitsPerWeight");
    }
    expect(refusal(() => resolveCompress({ out: "", target }))?.option).toBe("out");
    expect(refusal(() => resolveCompress({ ...plain, calibration: [] }))).toBeTruthy();
    const text = "a text" as unknown as string[];
    expect(refusal(() => resolveCompress({ ...plain, calibration: text }))).toBeTruthy();
    const noFile = { file: [] };
    expect(refusal(() => resolveCompress({ ...plain, calibration: noFile }))).toBeTruthy();
    const narrow = { file: "a", context: 1 };
    expect(refusal(() => resolveCompress({ ...plain, calibration: narrow }))?.option).toBe(
      "calibration.context",
    );
    const none = { file: "f", tokens: 0 };
    expect(refusal(() => resolveCompress({ ...plain, calibration: none }))?.option).toBe(
      "calibration.tokens",
    );
  });

  test("evaluate wants a text or a file, and not both", () => {
    expect(resolveEvaluate({ text: "a" })).toMatchObject({ windows: 64, context: 256 });
    expect(refusal(() => resolveEvaluate({}))).toBeTruthy();
    expect(refusal(() => resolveEvaluate({ text: "a", file: "b" }))).toBeTruthy();
    expect(refusal(() => resolveEvaluate({ text: "a", context: 1 }))?.option).toBe("context");
  });
});
