/**
 * benchmark(): how fast a model runs here, in how much memory, and how near that is to what this
 * machine's memory allows. It takes the route of every generation (engine thread, sampler, tokens
 * one by one to JavaScript) with made-up token ids, so that no tokenizer is built.
 */
import { invalidOption } from "./check.js";
import { type Device, deviceOf, verdictsFile } from "./device.js";
import { type ProgressListener, runJob } from "./job.js";
import { type NativeGenerateResult, type NativeModel, nativeAddon } from "./native.js";
import { type BenchmarkOptions, resolveBenchmark } from "./options.js";
import { type ModelSource, resolveSource } from "./source.js";

/** The median of some measurements, and the largest less the smallest over it. */
export interface Measured {
  median: number;
  spread: number;
}

export interface BenchmarkReport {
  device: Device;
  threads: number;
  contextLength: number;
  kvCache: string;
  /** Tokens in the KV cache before the prompt. */
  position: number;
  promptTokens: number;
  generatedTokens: number;
  repeats: number;
  /** The engine's own loading time. */
  loadMs: number;
  /** Tokens a second. */
  prefill: Measured;
  decode: Measured;
  /** Processor seconds of the whole process for a token. */
  prefillCpu: Measured;
  decodeCpu: Measured;
  /** Of the whole process. */
  peakRssBytes: number;
  /** Weights and KV cache that decoding reads for a token, half way through. */
  bytesPerToken: number;
  /** Bytes a second that as many threads read from memory, and the part that decoding reached. */
  bandwidth: number;
  bandwidthFraction: number;
}

/** Measures a model. @throws ModelError; or the reason of `options.signal` */
export async function benchmark(
  source: string | ModelSource,
  options: BenchmarkOptions = {},
): Promise<BenchmarkReport> {
  const resolved = resolveBenchmark(options);
  const { threads, contextLength, kvCache, device, signal, onProgress } = resolved;
  const verdicts = verdictsFile(resolved.cacheDir);
  signal?.throwIfAborted();
  const { path } = await resolveSource(source);
  const engine = { device, verdicts, unpackToFloat: false };
  const { promptKernel } = resolved;
  const chosen = promptKernel === undefined ? {} : { promptKernel };
  const request = { path, threads, contextLength, kvCache, ...engine, ...chosen };
  const native = await runJob((report) => nativeAddon().loadModel(request, report), {
    signal,
    onProgress,
  });
  try {
    return await measure(native, resolved);
  } finally {
    await native.dispose();
  }
}

type Resolved = ReturnType<typeof resolveBenchmark>;

async function measure(native: NativeModel, options: Resolved): Promise<BenchmarkReport> {
  const { facts } = native;
  const { promptTokens, generateTokens, repeats, signal, onProgress } = options;
  const room = facts.contextLength - promptTokens - generateTokens;
  if (room < 0) {
    throw invalidOption(
      "prompt and generated tokens",
      `at most ${facts.contextLength} together, the context`,
      promptTokens + generateTokens,
    );
  }
  const position = options.fillContext ? room : 0;
  onProgress?.({ phase: "warm up", loaded: 0 });
  // Pages of the file are mapped and threads started by whoever is first.
  await generate(native, { position: 0, prompt: 2, generate: 1, run: 0, signal });
  if (options.fillContext) await runJob(() => native.fillContext(position), { signal });
  const runs: NativeGenerateResult[] = [];
  for (let run = 1; run <= repeats; run++) {
    report(onProgress, run - 1, repeats);
    const request = { position, prompt: promptTokens, generate: generateTokens, run, signal };
    runs.push(await generate(native, request));
  }
  report(onProgress, repeats, repeats);
  // Before the bandwidth is measured, which takes memory of its own.
  const peakRssBytes = nativeAddon().peakMemory();
  const bandwidth = await runJob(() => nativeAddon().readBandwidth(facts.threads), { signal });
  const prompts = runs.map((run) => run.promptTokens - run.cachedTokens);
  const prefillMs = (of: "prefillMs" | "prefillCpuMs") =>
    runs.map((run, i) => run[of] / (prompts[i] ?? 1));
  const decodeMs = (of: "decodeMs" | "decodeCpuMs") => runs.map((run) => run[of] / generateTokens);
  const decode = measured(decodeMs("decodeMs").map((ms) => 1e3 / ms));
  // Attention looks back on every position before, and its own.
  const lookedBack = position + promptTokens + (generateTokens + 1) / 2;
  const bytesPerToken = facts.weightBytesPerToken + facts.kvBytesPerPosition * lookedBack;
  return {
    device: deviceOf(facts),
    threads: facts.threads,
    contextLength: facts.contextLength,
    kvCache: options.kvCache,
    position,
    promptTokens,
    generatedTokens: generateTokens,
    repeats,
    loadMs: facts.loadMs,
    prefill: measured(prefillMs("prefillMs").map((ms) => 1e3 / ms)),
    decode,
    prefillCpu: measured(prefillMs("prefillCpuMs").map((ms) => ms / 1e3)),
    decodeCpu: measured(decodeMs("decodeCpuMs").map((ms) => ms / 1e3)),
    peakRssBytes,
    bytesPerToken,
    bandwidth,
    bandwidthFraction: (decode.median * bytesPerToken) / bandwidth,
  };
}

interface Run {
  position: number;
  prompt: number;
  generate: number;
  run: number;
  signal: AbortSignal | undefined;
}

/** A generation of `generate` forward passes after the prompt's. */
async function generate(
  native: NativeModel,
  { position, prompt, generate, run, signal }: Run,
): Promise<NativeGenerateResult> {
  const request = {
    prompt: promptOf(position, prompt, run, native.facts.vocabSize),
    // The first token comes from the prompt's logits, and the last is not run.
    maxTokens: generate + 1,
    stopTokens: new Int32Array(0),
    temperature: 0,
    topK: 0,
    topP: 1,
    minP: 0,
    repetitionPenalty: 1,
    presencePenalty: 0,
    frequencyPenalty: 0,
    logitBias: [],
    seed: 0n,
  };
  return await runJob(() => native.generate(request, () => {}), { signal });
}

/**
 * Tokens 0 as far as the context was filled, then others, unlike those of any other run from the
 * first on: what a run has in common with the one before it would not be computed again.
 */
function promptOf(position: number, tokens: number, run: number, vocabSize: number): Int32Array {
  const prompt = new Int32Array(position + tokens);
  for (let i = 0; i < tokens; i++) {
    // A fixed walk over the vocabulary, in steps that no small vocabulary divides.
    prompt[position + i] = 1 + ((run * 7 + i * 7_919) % Math.max(1, vocabSize - 1));
  }
  return prompt;
}

function measured(values: number[]): Measured {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (index: number) => sorted[index] ?? 0;
  const middle = sorted.length >> 1;
  const median = sorted.length % 2 ? at(middle) : (at(middle - 1) + at(middle)) / 2;
  return { median, spread: (at(sorted.length - 1) - at(0)) / median };
}

function report(onProgress: ProgressListener | undefined, loaded: number, total: number): void {
  onProgress?.({ phase: "measure", loaded, total, fraction: loaded / total });
}
