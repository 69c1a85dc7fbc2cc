import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";

import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { type CompressEvent, compress } from "../../lib/index.js";
import { injectAddon } from "../../lib/native.js";
import { FakeAddon, nativeError } from "../support/fake-addon.js";
import { temporaryDirectory, tokenizerBin, writeTinyModel } from "../support/tiny-model.js";

let addon: FakeAddon;
let out: string;
let options: Parameters<typeof compress>[1];

beforeEach(() => {
  addon = new FakeAddon();
  injectAddon(addon);
  out = join(temporaryDirectory(), "out");
  options = {
    out,
    target: { bitsPerWeight: 0.8 },
    calibration: ["the cat and the cat. ".repeat(20)],
    cacheDir: temporaryDirectory(),
  };
});
afterEach(() => injectAddon(undefined));

const left = () => readdirSync(dirname(out)).sort();

describe("compress", () => {
  test("leaves a whole model directory and nothing beside it", async () => {
    const source = writeTinyModel();
    writeFileSync(join(source, "generation_config.json"), "{}");
    const report = await compress(source, options);
    const names = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"];
    expect(readdirSync(out).sort()).toEqual(names);
    expect(left()).toEqual(["out"]);
    expect(report).toMatchObject({ out, bitsPerWeight: { body: 0.8, file: 1.2 }, bytes: 7 });
    expect(report.calibration).toMatchObject({ source: "given" });
  });

  test("of a llama2.c checkpoint writes the tokenizer.json that it lacks", async () => {
    const directory = temporaryDirectory();
    const header = Buffer.alloc(28);
    header.writeInt32LE(261, 20);
    header.writeInt32LE(16, 24);
    writeFileSync(join(directory, "model.bin"), header);
    writeFileSync(join(directory, "tokenizer.bin"), tokenizerBin([" ", "a"]));
    await compress(join(directory, "model.bin"), { ...options, calibration: ["a a a"] });
    expect(JSON.parse(readFileSync(join(out, "tokenizer.json"), "utf8")).model.type).toBe("BPE");
  });

  test("can be iterated for progress and then awaited for the report", async () => {
    const job = compress(writeTinyModel(), options);
    const events: CompressEvent[] = [];
    for await (const event of job) events.push(event);
    expect(events.map(({ phase }) => phase)).toEqual(expect.arrayContaining(["tokenize", "fit"]));
    expect(events.at(-1)).toMatchObject({ phase: "fit", fraction: 1, detail: "block 5" });
    expect((await job).bytes).toBe(7);
    expect(addon.compressions).toHaveLength(1);
  });

  test("is not started by a job that nobody consumes, and checks its options at once", async () => {
    compress(writeTinyModel(), options);
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(left()).toEqual([]);
    expect(() => compress("x", { ...options, target: { bitsPerWeight: 0 } })).toThrow(/bits/);
  });

  test("hands windows behind the start token to the engine, within the budget", async () => {
    const file = join(temporaryDirectory(), "text");
    writeFileSync(file, "the cat and the cat. ".repeat(500));
    await compress(writeTinyModel(), {
      ...options,
      calibration: { file, tokens: 60 },
      forms: "tables",
      sensitivity: "measured",
      seed: 9,
    });
    const [request] = addon.compressions;
    // The model's context is 16: 15 tokens of text each.
    expect(request?.calibration.map((window) => window.length)).toEqual([16, 16, 16, 16]);
    expect(request?.calibration.every((window) => window[0] === 1)).toBe(true);
    expect(request).toMatchObject({
      target: { unit: "bodyBits", amount: 0.8 },
      ends: { embeddings: 4, lmHead: 0 },
      forms: "tables",
      sensitivity: "measured",
      effort: "balanced",
      seed: 9n,
    });
  });

  test("takes windows of a given length from several files, mixed", async () => {
    const directory = temporaryDirectory();
    const file = ["the cat ", "and a "].map((words, i) => {
      writeFileSync(join(directory, `${i}`), words.repeat(500));
      return join(directory, `${i}`);
    });
    const calibration = { file, tokens: 28, context: 8 };
    await compress(writeTinyModel(), { ...options, calibration });
    const windows = addon.compressions[0]?.calibration.map(([, ...ids]) => ids) ?? [];
    expect(windows.map((ids) => ids.length)).toEqual([7, 7, 7, 7]);
    const words = windows.map((ids) => [...new Set(ids)].sort().join());
    expect(words[0]).not.toEqual(words[1]);
    expect(words.slice(2)).toEqual(words.slice(0, 2));
  });

  test("judges the result on the text that was held out, against the original", async () => {
    addon.heldOutWindows = 2;
    addon.teacher = { perplexity: 4, klMean: 0.5, klP99: 2, top1Agreement: 0.7 };
    const report = await compress(writeTinyModel(), options);
    const [judged] = addon.evaluations;
    expect(judged?.windows).toEqual(addon.compressions[0]?.calibration.slice(-2));
    expect(judged?.teacherPath).toBe(addon.compressions[0]?.source);
    expect(report.quality).toEqual({
      text: "held out",
      windows: 2,
      tokens: 30,
      perplexity: { before: 4, after: 5 },
      klMean: 0.5,
      klP99: 2,
      top1Agreement: 0.7,
    });
    addon.heldOutWindows = 0;
    const without = await compress(writeTinyModel(), { ...options, overwrite: true });
    expect(without.quality).toBeUndefined();
    expect(without.plan.bitsPerWeight).toEqual({ body: 0.8, file: 1.2 });
    expect(addon.evaluations).toHaveLength(1);
  });

  test("without text lets the model write some, the same for the same seed", async () => {
    addon.says = [5, 6, 7, 8];
    const { calibration: _, ...without } = options;
    const report = await compress(writeTinyModel(), { ...without, effort: "fast" });
    expect(report.calibration).toMatchObject({ source: "written" });
    expect(report.calibration.tokens).toBeGreaterThanOrEqual(4096);
    expect([...(addon.compressions[0]?.calibration[0] ?? [])]).toEqual([1, 5, 6, 7, 8]);
    const seeds = addon.requests.map(({ seed }) => seed);
    expect(new Set(seeds).size).toBe(seeds.length);
    expect(addon.requests[0]).toMatchObject({ temperature: 1, prompt: Int32Array.of(1) });
    expect(addon.disposals).toBe(1);
  });
});

describe("an output directory that is there", () => {
  beforeEach(() => {
    mkdirSync(out);
    writeFileSync(join(out, "old"), "");
  });

  test("is refused before any work", async () => {
    const job = compress(writeTinyModel(), options);
    await expect(job).rejects.toMatchObject({ code: "INVALID_OPTION" });
    expect(addon.compressions).toEqual([]);
    expect(readdirSync(out)).toEqual(["old"]);
  });

  test("is replaced as a whole with overwrite, and kept if that fails", async () => {
    addon.failure = nativeError("NON_FINITE");
    const job = compress(writeTinyModel(), { ...options, overwrite: true });
    await expect(job).rejects.toMatchObject({ code: "NON_FINITE" });
    expect(readdirSync(out)).toEqual(["old"]);
    addon.failure = undefined;
    await compress(writeTinyModel(), { ...options, overwrite: true });
    expect(readdirSync(out)).not.toContain("old");
    expect(left()).toEqual(["out"]);
  });
});

describe("a compression that is stopped", () => {
  test("by its signal throws the reason and keeps what is finished", async () => {
    const control = new AbortController();
    const run = async () => {
      for await (const event of compress(writeTinyModel(), {
        ...options,
        signal: control.signal,
      })) {
        if (event.phase === "fit" && event.loaded >= 3) control.abort("enough");
      }
    };
    await expect(run()).rejects.toBe("enough");
    expect(left()).toEqual(["out.state"]);
    await compress(writeTinyModel(), options);
    expect(addon.compressions[1]?.state).toBe(addon.compressions[0]?.state);
    expect(left()).toEqual(["out"]);
  });

  test("by leaving the loop is aborted, and awaiting it says so", async () => {
    const job = compress(writeTinyModel(), options);
    for await (const event of job) if (event.phase === "fit") break;
    expect(addon.jobs.at(-1)?.state.isAborted).toBe(true);
    await expect(job).rejects.toMatchObject({ code: "ABORTED" });
    expect(existsSync(out)).toBe(false);
  });

  test("while its text is tokenized stops at once", async () => {
    const job = compress(writeTinyModel(), { ...options, calibration: ["the ".repeat(200_000)] });
    for await (const _ of job) break;
    await expect(job).rejects.toMatchObject({ code: "ABORTED" });
    expect(addon.compressions).toEqual([]);
  });

  test("a state directory of the caller's own is left to the caller", async () => {
    const state = join(temporaryDirectory(), "state");
    await compress(writeTinyModel(), { ...options, state });
    expect(addon.compressions[0]?.state).toBe(state);
    expect(existsSync(state)).toBe(true);
  });
});
