/**
 * A child process with one engine in it, subbit's or the peer's, that does as its parent says:
 * loads a model, then runs a prompt and some tokens after it, again and again. Both engines are
 * measured here, in the same words: token ids in, token ids out, the clock and the processor time
 * of the whole process read when the first and when the last token arrives in JavaScript.
 *
 * @typedef {{ engine: "subbit" | "llama", model: string, threads: number, context: number,
 *   peer: string }} EngineOptions `peer` is the file that node-llama-cpp is imported from
 * @typedef {{ prompt: number[], tokens: number }} RunRequest
 * @typedef {{ prefillMs: number, prefillCpuMs: number, decodeMs: number, decodeCpuMs: number,
 *   peakRssBytes: number }} RunResult
 * @typedef {{ loadMs: number, about: string }} Ready
 * @typedef {{ about: string, run: (prompt: number[], count: number, onToken: () => void) =>
 *   Promise<void> }} Engine `run` calls onToken `count` times
 */
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

/** @param {EngineOptions} options @returns {Promise<Engine>} */
async function subbit({ model, threads, context }) {
  const { nativeAddon } = await import("../../dist/native.js");
  const request = { path: model, threads, contextLength: context, kvCache: "f16" };
  const loaded = await nativeAddon().loadModel(
    { .../** @type {const} */ ({ ...request, kvCache: "f16" }), unpackToFloat: false },
    () => {},
  ).promise;
  const sampling = {
    ...{ stopTokens: new Int32Array(0), temperature: 0, topK: 0, topP: 1, minP: 0, seed: 0n },
    ...{ repetitionPenalty: 1, presencePenalty: 0, frequencyPenalty: 0, logitBias: [] },
  };
  return {
    about: `subbit ${nativeAddon().version}`,
    async run(prompt, count, onToken) {
      const given = { ...sampling, prompt: Int32Array.from(prompt), maxTokens: count };
      await loaded.generate(given, onToken).promise;
    },
  };
}

/** @param {EngineOptions} options @returns {Promise<Engine>} */
async function llama({ model, threads, context, peer }) {
  const { getLlama } = await import(pathToFileURL(peer).href);
  // Its own prebuilt binary, or none: nothing is downloaded or compiled here.
  // It doubts the random model's tokenizer aloud, which is not used.
  const quiet = { logger: () => {}, progressLogs: false };
  const runtime = await getLlama({ gpu: false, build: "never", skipDownload: true, ...quiet });
  const loaded = await runtime.loadModel({ modelPath: model, gpuLayers: 0 });
  const made = await loaded.createContext({ contextSize: context, threads, sequences: 1 });
  const sequence = made.getSequence();
  return {
    about: `llama.cpp ${runtime.llamaCppRelease.release}, ${runtime.systemInfo.trim()}`,
    async run(prompt, count, onToken) {
      await sequence.clearHistory();
      let left = count;
      const options = { temperature: 0, yieldEogToken: true };
      for await (const _ of sequence.evaluate(prompt, options)) {
        onToken();
        left -= 1;
        if (left === 0) break;
      }
      if (left > 0) throw new Error(`the peer stopped ${left} tokens early`);
    },
  };
}

/** Resident at most, mapped files included. */
function peakRss() {
  const { maxRSS } = process.resourceUsage();
  const exact = process.platform === "linux" && readFileSync("/proc/self/status", "utf8");
  return 1024 * Number((exact && /^VmHWM:\s*(\d+) kB$/m.exec(exact)?.[1]) || maxRSS);
}

/** @param {Engine} engine @param {RunRequest} request @returns {Promise<RunResult>} */
async function measure(engine, { prompt, tokens }) {
  /** @type {{ wall: number, cpu: number }[]} */
  const marks = [];
  const mark = () => {
    const { user, system } = process.cpuUsage();
    marks.push({ wall: performance.now(), cpu: (user + system) / 1e3 });
  };
  mark();
  let seen = 0;
  // The first token comes from the prompt; each of the others takes one pass through the model.
  await engine.run(prompt, tokens + 1, () => {
    seen += 1;
    if (seen === 1 || seen === tokens + 1) mark();
  });
  const [start, first, last] = marks;
  if (!start || !first || !last) throw new Error("a run gave too few tokens");
  return {
    prefillMs: first.wall - start.wall,
    prefillCpuMs: first.cpu - start.cpu,
    decodeMs: last.wall - first.wall,
    decodeCpuMs: last.cpu - first.cpu,
    peakRssBytes: peakRss(),
  };
}

const options = /** @type {EngineOptions} */ (JSON.parse(process.argv[2] ?? "{}"));
const started = performance.now();
const engine = await (options.engine === "subbit" ? subbit(options) : llama(options));
const loadMs = performance.now() - started;
process.on("message", async (message) => {
  try {
    process.send?.(await measure(engine, /** @type {RunRequest} */ (message)));
  } catch (error) {
    process.stderr.write(`${options.engine}: ${error instanceof Error ? error.stack : error}\n`);
    process.exit(1);
  }
});
// The parent is gone, or done.
process.on("disconnect", () => process.exit(0));
process.send?.({ loadMs, about: engine.about });
