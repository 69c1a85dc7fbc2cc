import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { loadModel, ModelError, type ProgressEvent } from "../../lib/index.js";
import { injectAddon, type NativeDevice } from "../../lib/native.js";
import { FakeAddon, nativeError } from "../support/fake-addon.js";
import { temporaryDirectory, writeTinyModel } from "../support/tiny-model.js";

let addon: FakeAddon;
beforeEach(() => {
  addon = new FakeAddon();
  injectAddon(addon);
});
afterEach(() => injectAddon(undefined));

describe("loadModel", () => {
  test("gives the facts that the engine found, and progress on the way", async () => {
    const events: ProgressEvent[] = [];
    const path = writeTinyModel();
    const model = await loadModel(path, { onProgress: (event) => events.push(event), threads: 2 });
    expect(addon.loads).toEqual([
      {
        path,
        threads: 2,
        contextLength: 0,
        kvCache: "f16",
        device: "auto",
        verdicts: expect.stringMatching(/devices\.txt$/),
        unpackToFloat: false,
        memoryBudget: 0,
        onInsufficientMemory: "throw",
        tokenizerBytes: expect.any(Number),
      },
    ]);
    expect(events.map(({ fraction }) => fraction)).toEqual([1 / 3, 2 / 3, 1]);
    expect(events[0]).toMatchObject({ phase: "map", loaded: 1, total: 3 });
    expect(model.info).toMatchObject({
      architecture: "llama",
      bitsPerWeight: { body: 0.75, file: 1.5 },
      bytes: 4096,
      contextLength: 16,
    });
    expect(model.device).toMatchObject({ backend: "cpu", threads: 1 });
    expect(Object.isFrozen(model.info)).toBe(true);
    await model.dispose();
  });

  test("says which device the engine took, and why not the other", async () => {
    const found = (device: NativeDevice) => {
      addon.facts = { ...addon.facts, device };
    };
    found({ backend: "metal", name: "Apple M1", reason: "", kernels: "popcount columns" });
    const path = writeTinyModel();
    const onGpu = await loadModel(path);
    const kernels = "popcount columns";
    expect(onGpu.device).toEqual({ backend: "metal", name: "Apple M1", kernels, threads: 1 });
    found({ backend: "cpu", name: "", reason: "the shaders do not compile", kernels: "" });
    const { device } = await loadModel(path, { device: "auto" });
    expect(device).toMatchObject({ backend: "cpu", reason: "the shaders do not compile" });
    expect(device.name.length).toBeGreaterThan(0);
    await expect(loadModel(path, { device: "cuda" as "cpu" })).rejects.toMatchObject({
      code: "INVALID_OPTION",
      details: { expected: expect.stringContaining("metal") },
    });
  });

  test("fails with the engine's error, or before it with the options'", async () => {
    addon.failure = nativeError("UNSUPPORTED_ARCH", "no gpt2 here", { actual: "gpt2" });
    const path = writeTinyModel();
    await expect(loadModel(path)).rejects.toMatchObject({ code: "UNSUPPORTED_ARCH" });
    await expect(loadModel(path, { threads: -1 })).rejects.toMatchObject({
      code: "INVALID_OPTION",
    });
    await expect(loadModel(temporaryDirectory())).rejects.toMatchObject({ code: "FILE_ERROR" });
    expect(addon.loads).toHaveLength(1);
  });

  test("an abort throws the signal's reason, before and in the middle", async () => {
    const path = writeTinyModel();
    const aborted = AbortSignal.abort("enough");
    await expect(loadModel(path, { signal: aborted })).rejects.toBe("enough");
    expect(addon.loads).toEqual([]);
    const control = new AbortController();
    const loading = loadModel(path, {
      signal: control.signal,
      onProgress: () => control.abort("enough"),
    });
    await expect(loading).rejects.toBe("enough");
  });

  test("a listener that throws ends the loading with its error", async () => {
    const error = new Error("mine");
    const loading = loadModel(writeTinyModel(), {
      onProgress: () => {
        throw error;
      },
    });
    await expect(loading).rejects.toBe(error);
  });
});

describe("memory", () => {
  test("shows what was planned beside what is held", async () => {
    const model = await loadModel(writeTinyModel(), { memoryBudget: "1 GiB" });
    expect(addon.loads[0]).toMatchObject({ memoryBudget: 2 ** 30 });
    const report = model.memory();
    expect(report.planned).toMatchObject({ totalBytes: 2000, footprintBytes: 1000 });
    expect(report.process).toMatchObject({ residentBytes: 50, peakResidentBytes: 60 });
    expect(report.unplannedBytes).toBe(0);
    await model.dispose();
    expect(() => model.memory()).toThrow(ModelError);
  });

  test("trim forgets context and tokenizer only when critical, and both come back", async () => {
    const model = await loadModel(writeTinyModel());
    const ids = await model.tokenizer.encode("the cat");
    expect(await model.trim()).toBe(4096);
    await model.trim("critical");
    expect(addon.trims).toEqual([false, true]);
    expect(await model.tokenizer.encode("the cat")).toEqual(ids);
    await expect(model.trim("mild" as "warning")).rejects.toMatchObject({ code: "INVALID_OPTION" });
    await model.dispose();
    await expect(model.trim()).rejects.toMatchObject({ code: "DISPOSED" });
  });
});

describe("score", () => {
  test("puts a text behind the start token and takes ids as they are", async () => {
    const model = await loadModel(writeTinyModel());
    const text = await model.score("the cat");
    expect(text.tokens[0]).toBe(1);
    expect(text.logprobs).toHaveLength(text.tokens.length - 1);
    expect(text.perplexity).toBeCloseTo(2, 6);
    expect((await model.score([5, 6, 7])).tokens).toEqual([5, 6, 7]);
    for (const input of [[5], [], "", [1, 400], [1, -1], [1, 0.5]]) {
      await expect(model.score(input)).rejects.toMatchObject({ code: "INVALID_OPTION" });
    }
    await model.dispose();
  });
});

describe("dispose", () => {
  test("any number of times is once", async () => {
    const model = await loadModel(writeTinyModel());
    await Promise.all([model.dispose(), model.dispose()]);
    await model[Symbol.asyncDispose]();
    expect(addon.disposals).toBe(1);
  });

  test("makes every later use fail with DISPOSED", async () => {
    const model = await loadModel(writeTinyModel());
    const waiting = model.generate("a");
    await model.dispose();
    expect(() => model.generate("a")).toThrow(ModelError);
    const disposed = { code: "DISPOSED" };
    await expect(waiting).rejects.toMatchObject(disposed);
    await expect(model.score("a cat")).rejects.toMatchObject(disposed);
    await expect(model.tokenizer.encode("a")).rejects.toMatchObject(disposed);
    expect(addon.requests).toEqual([]);
  });

  test("ends what is being generated, also for a reader who waits", async () => {
    const model = await loadModel(writeTinyModel());
    addon.says = Array(100_000).fill(5);
    const run = async () => {
      for await (const _ of model.generate("a", { maxTokens: 100_000 })) await model.dispose();
    };
    await expect(run()).rejects.toMatchObject({ code: "DISPOSED" });
    const second = await loadModel(writeTinyModel());
    addon.silentTurns = Number.MAX_SAFE_INTEGER;
    const generation = second.generate("a").then(() => {});
    const disposing = second.dispose();
    await expect(generation).rejects.toMatchObject({ code: "DISPOSED" });
    await disposing;
  });
});
