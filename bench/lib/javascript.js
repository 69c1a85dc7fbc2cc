/**
 * What JavaScript adds to a model's work: tokenizing, the way of a token from the addon through
 * `generation.text`, and the crossing itself. The models are the one in the package and a random
 * one of 110 million parameters; a token must cost little beside them.
 *
 *     npm run bench -- javascript [--record] [--rounds 5]
 */
import { rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

import { exampleModel, loadModel, synthesize } from "subbit";
import { Bench } from "tinybench";

import * as native from "../../dist/native.js";
import { record, summary } from "../record.js";

const { values: given } = parseArgs({
  options: {
    rounds: { type: "string", default: "5" },
    record: { type: "boolean", default: false },
  },
});
const rounds = Number(given.rounds);
const { nativeAddon } = native;
// For tests, and so not in the declarations.
const { injectAddon } = /** @type {any} */ (native);

/** @typedef {{ name: string, unit: string, shape: string, numbers: number[] }} Measured */

const story = "Once upon a time there was a little dog who wanted to see the sea. ";

/** Tokens at once from an addon that has nothing to compute. @param {number} tokens */
function instantAddon(tokens) {
  const real = nativeAddon();
  const facts = { contextLength: 1e6, vocabSize: 32_000, bosTokenIds: [1], eosTokenIds: [2] };
  const result = { promptTokens: 1, cachedTokens: 0, generatedTokens: tokens };
  const times = { prefillMs: 1, decodeMs: 1, prefillCpuMs: 1, decodeCpuMs: 1 };
  /** @param {unknown} _ @param {(token: number) => void} onToken */
  const generate = (_, onToken) => ({
    abort() {},
    // As from a thread: every token in a turn of its own.
    promise: (async () => {
      for (let i = 0; i < tokens; i++) {
        await new Promise((resolve) => setImmediate(resolve));
        onToken(300 + (i % 20_000));
      }
      return { finishReason: "length", ...result, ...times };
    })(),
  });
  const model = { facts, generate, score() {}, dispose: async () => {} };
  const loadModel = () => ({ abort() {}, promise: Promise.resolve(model) });
  return /** @type {any} */ ({ ...real, loadModel });
}

/**
 * Medians of `rounds` runs of each task, microseconds.
 * @param {Record<string, () => unknown>} tasks
 */
async function microseconds(tasks) {
  /** @type {Record<string, number[]>} */
  const numbers = {};
  for (let round = 0; round < rounds; round++) {
    const bench = new Bench({ time: 200, warmupTime: 50, throws: true });
    for (const [name, task] of Object.entries(tasks))
      bench.add(name, async () => void (await task()));
    await bench.run();
    for (const { name, result } of bench.tasks) {
      if (!("latency" in result)) throw new Error(`${name} was not measured`);
      numbers[name] = [...(numbers[name] ?? []), 1e3 * result.latency.p50];
    }
  }
  return numbers;
}

async function textWork() {
  const model = await loadModel(exampleModel);
  const { tokenizer } = model;
  const ids = [...(await tokenizer.encode(story.repeat(15)))];
  const long = story.repeat(1_500);
  const numbers = await microseconds({
    "encode 1 KB": () => tokenizer.encode(story.repeat(15)),
    "encode 100 KB": () => tokenizer.encode(long),
    "decode 1 KB": () => tokenizer.decode(ids),
  });
  await model.dispose();
  return numbers;
}

async function streamWork() {
  const tokens = 256;
  injectAddon(instantAddon(tokens));
  const model = await loadModel(exampleModel);
  const through = async () => {
    let length = 0;
    for await (const text of model.generate("a", { maxTokens: tokens }).text) length += text.length;
    return length;
  };
  const bare = async () => {
    for (let i = 0; i < tokens; i++) await new Promise((resolve) => setImmediate(resolve));
  };
  const numbers = await microseconds({ through, bare });
  await model.dispose();
  injectAddon(undefined);
  const bareRounds = numbers["bare"] ?? [];
  return {
    "a token through generation.text": (numbers["through"] ?? []).map(
      (us, i) => (us - (bareRounds[i] ?? 0)) / tokens,
    ),
  };
}

/** Processor time of everything but the decoding, for each token. @param {string} path */
async function besideTheEngine(path) {
  const tokens = 120;
  const request = { path, threads: 1, contextLength: 0, unpackToFloat: false };
  const model = await nativeAddon().loadModel({ ...request, kvCache: "f16" }, () => {}).promise;
  const sampling = {
    ...{ stopTokens: new Int32Array(0), temperature: 0, topK: 0, topP: 1, minP: 0, seed: 0n },
    ...{ repetitionPenalty: 1, presencePenalty: 0, frequencyPenalty: 0, logitBias: [] },
  };
  const cpu = () => {
    const { user, system } = process.cpuUsage();
    return user + system;
  };
  const engine = [];
  const outside = [];
  for (let round = 0; round <= rounds; round++) {
    const before = cpu();
    const prompt = Int32Array.from([1, 300 + round, 400]);
    const job = model.generate({ ...sampling, prompt, maxTokens: tokens }, () => {});
    const { decodeCpuMs, prefillCpuMs } = await job.promise;
    const inside = 1e3 * (decodeCpuMs + prefillCpuMs);
    if (round === 0) continue;
    engine.push((1e3 * decodeCpuMs) / tokens);
    outside.push((cpu() - before - inside) / tokens);
  }
  await model.dispose();
  return { "decode and cross into JavaScript": engine, "start and end of a generation": outside };
}

/** @type {Measured[]} */
const all = [];
const add = (/** @type {string} */ shape, /** @type {Record<string, number[]>} */ numbers) => {
  for (const [name, list] of Object.entries(numbers)) {
    all.push({ name, shape, unit: "us", numbers: list });
    const { median, spread } = summary(list);
    const percent = `${(100 * spread).toFixed(0)} %`;
    process.stdout.write(
      `${name.padEnd(34)} ${shape.padEnd(12)} ${median.toFixed(1).padStart(10)} us  ${percent}\n`,
    );
  }
};
add("stories15m", await textWork());
add("stories15m", await streamWork());
add("stories15m", await besideTheEngine(exampleModel));
const random = join(tmpdir(), `subbit-bench-110m-${process.pid}`);
try {
  await synthesize({ shape: "llama-110m", out: random });
  add("llama-110m", await besideTheEngine(random));
} finally {
  rmSync(random, { recursive: true, force: true });
}
if (given.record) {
  const common = { bench: "javascript", engine: "subbit", format: "0.8 bits", threads: 1 };
  record(
    all.map(({ name, shape, unit, numbers }) => ({
      ...{ ...common, metric: name, shape, unit },
      ...summary(numbers),
    })),
  );
}
