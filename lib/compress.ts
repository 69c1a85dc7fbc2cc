/**
 * compress(): one job object, iterated for progress and awaited for the report. It gathers the
 * calibration tokens, hands the work to the engine, adds the tokenizer's files to what the engine
 * wrote, and puts the directory in its place. Finished blocks stay in a state directory, so that
 * the same call resumes after an abort or a kill.
 */
import { rm } from "node:fs/promises";

import { calibrationWindows } from "./calibration.js";
import { invalidOption } from "./check.js";
import { ModelError } from "./errors.js";
import { type ProgressEvent, runJob } from "./job.js";
import { tokenizerBytesOf } from "./memory.js";
import { type NativeCompressResult, nativeAddon } from "./native.js";
import { type CompressOptions, resolveCompress } from "./options.js";
import { type CompressionPlan, planOf } from "./plan.js";
import { type ModelSource, pathOf, type ResolvedSource, resolveSource } from "./source.js";
import { addFiles, addText, discard, publish, stage } from "./staging.js";
import { Tokenizer } from "./text.js";

export type CompressEvent = ProgressEvent;

/** How near the result is to the original, on text that nothing was trained on. */
export interface CompressQuality {
  /** `"held out"`: the end of the calibration text, by which tuning only chose when to stop. */
  text: "held out";
  windows: number;
  /** Predictions that were made. */
  tokens: number;
  perplexity: { before: number; after: number };
  /** Kullback-Leibler divergence from the original, nats: mean and 99th percentile. */
  klMean: number;
  klP99: number;
  /** How often both find the same token likeliest, 0 to 1. */
  top1Agreement: number;
}

/** One linear layer of the result. */
export interface LayerReport {
  name: string;
  /** Such as `"factored r=160"`. */
  format: string;
  rows: number;
  cols: number;
  bytes: number;
  bitsPerWeight: number;
  /** Squared error of the weights over their squared size. */
  weightError: number;
  /** The same, weighted by the second moments of the layer's inputs. */
  outputError: number;
}

export interface CompressReport {
  /** The directory that was written. */
  out: string;
  bitsPerWeight: { body: number; file: number };
  bytes: number;
  perLayer: LayerReport[];
  /** What was settled before the work began, with the predicted cost of this effort. */
  plan: CompressionPlan;
  /** Absent where there was too little text to hold some back: fewer than 20 windows. */
  quality?: CompressQuality;
  /** Tokens that activations were measured on, and whether the model wrote them itself. */
  calibration: { tokens: number; windows: number; source: "given" | "written" };
  /** Blocks that an earlier, interrupted run had finished. */
  resumedBlocks: number;
  /** False where the model is too large to be tuned as a whole: it is then fitted only. */
  tuned: boolean;
  /** How long each phase took, in order; the rest of `wallMs` is the text's. */
  stages: { name: string; ms: number }[];
  wallMs: number;
}

/**
 * Compresses a model into the directory `options.out`. The work starts when the job is iterated or
 * awaited; leaving the loop, `cancel()` or the signal stop it, and the same call resumes it.
 * @throws ModelError INVALID_OPTION
 */
export function compress(source: string | ModelSource, options: CompressOptions): CompressJob {
  pathOf(source);
  return new CompressJob(source, resolveCompress(options));
}

type Resolved = ReturnType<typeof resolveCompress>;

/** What `compress()` returns. Iterate it, once, for progress; await it for the report. */
export class CompressJob implements AsyncIterable<CompressEvent>, PromiseLike<CompressReport> {
  readonly #source: string | ModelSource;
  readonly #options: Resolved;
  readonly #control = new AbortController();
  readonly #events = new Latest<CompressEvent>();
  #report: Promise<CompressReport> | undefined;
  #isIterated = false;

  /** @internal */
  constructor(source: string | ModelSource, options: Resolved) {
    this.#source = source;
    this.#options = options;
  }

  /** Progress; a consumer who is slow misses events but never the last one of a phase. */
  [Symbol.asyncIterator](): AsyncIterator<CompressEvent, void> {
    if (this.#isIterated) throw invalidOption("A compression", "iterated once", "iterated again");
    this.#isIterated = true;
    const events = this.#iterate();
    return {
      next: () => events.next(),
      return: async () => {
        this.cancel();
        await events.return();
        return { done: true, value: undefined };
      },
    };
  }

  async *#iterate(): AsyncGenerator<CompressEvent, void> {
    const report = this.#start();
    try {
      for (;;) {
        const event = await this.#events.take();
        if (!event) break;
        yield event;
      }
      await report;
    } finally {
      this.#control.abort(cancelled());
      await report.catch(() => {});
    }
  }

  /** Starts the work, if nothing has, and waits for its report. */
  // biome-ignore lint/suspicious/noThenProperty: awaiting it is part of the interface
  then<A = CompressReport, B = never>(
    onFulfilled?: ((report: CompressReport) => A | PromiseLike<A>) | null,
    onRejected?: ((reason: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    return this.#start().then(onFulfilled, onRejected);
  }

  /** Stops the work at once; whoever waits for it gets ABORTED. What is finished is kept. */
  cancel(): void {
    this.#control.abort(cancelled());
  }

  #start(): Promise<CompressReport> {
    if (!this.#report) {
      this.#report = this.#underSignal();
      // Who only iterates learns of a failure there; it is not unhandled as well.
      this.#report.catch(() => {}).then(() => this.#events.end());
    }
    return this.#report;
  }

  async #underSignal(): Promise<CompressReport> {
    const { signal } = this.#options;
    const abort = () => this.#control.abort(signal?.reason);
    if (signal?.aborted) abort();
    signal?.addEventListener("abort", abort, { once: true });
    try {
      return await this.#work(this.#control.signal);
    } finally {
      signal?.removeEventListener("abort", abort);
    }
  }

  async #work(signal: AbortSignal): Promise<CompressReport> {
    signal.throwIfAborted();
    const options = this.#options;
    const started = performance.now();
    const source = await resolveSource(this.#source);
    const staging = await stage(options.out, { ...options, source: source.path });
    const tokenizer = new Tokenizer(source.tokenizerFiles, options);
    const onProgress = (event: ProgressEvent) => this.#events.push(event);
    try {
      const shared = { source, tokenizer, signal, onProgress };
      const calibration = await calibrationWindows({ ...options, ...shared });
      const state = options.state ?? `${staging.out}.state`;
      const { effort, threads, target, keep, forms, sensitivity, ends } = options;
      const { memoryBudget, onInsufficientMemory } = options;
      const tokenizerBytes = await tokenizerBytesOf(source.tokenizerFiles);
      const result = await runJob(
        (report) =>
          nativeAddon().compress(
            {
              source: source.path,
              out: staging.partial,
              target,
              keep,
              forms,
              sensitivity,
              ends,
              calibration,
              effort,
              seed: BigInt(options.seed),
              threads,
              state,
              memoryBudget,
              onInsufficientMemory,
              tokenizerBytes,
            },
            report,
          ),
        { signal, onProgress },
      );
      await addTokenizer(staging, source, tokenizer);
      const judged = lastTokens(calibration.slice(calibration.length - result.heldOutWindows));
      const quality = await qualityOf(
        { path: staging.partial, teacherPath: source.path, windows: judged, threads },
        { signal, onProgress },
      );
      await publish(staging);
      // A directory that the caller named may hold more than ours; the default one is ours alone.
      if (options.state === undefined) await rm(state, { recursive: true, force: true });
      return reportOf(result, {
        out: staging.out,
        calibration: {
          tokens: calibration.reduce((sum, window) => sum + window.length, 0),
          windows: calibration.length,
          source: options.calibration ? "given" : "written",
        },
        ...(quality && { quality }),
        wallMs: performance.now() - started,
      });
    } catch (error) {
      await discard(staging);
      throw error;
    } finally {
      await tokenizer.close();
    }
  }
}

async function addTokenizer(
  staging: Awaited<ReturnType<typeof stage>>,
  { tokenizerFiles, companions }: ResolvedSource,
  tokenizer: Tokenizer,
): Promise<void> {
  await addFiles(staging, companions);
  if (tokenizerFiles.kind === "llama2c") {
    await addText(staging, "tokenizer.json", await tokenizer.json());
  }
}

/** Judging must cost little beside the work it judges. */
const judgedTokens = 8_192;

/** The last windows that together have no more than that, at least one. */
function lastTokens(windows: readonly Int32Array[]): Int32Array[] {
  let tokens = 0;
  const fits = [...windows].reverse().filter((window, i) => {
    tokens += window.length;
    return i === 0 || tokens <= judgedTokens;
  });
  return fits.reverse();
}

async function qualityOf(
  request: { path: string; teacherPath: string; windows: Int32Array[]; threads: number },
  { signal, onProgress }: { signal: AbortSignal; onProgress: (event: ProgressEvent) => void },
): Promise<CompressQuality | undefined> {
  if (request.windows.length === 0) return undefined;
  const { tokens, perplexity, teacher } = await runJob(
    (report) => nativeAddon().evaluate({ ...request, unpackToFloat: false }, report),
    { signal, onProgress: (event) => onProgress({ ...event, phase: "judge" }) },
  );
  if (!teacher) return undefined;
  const { perplexity: before, ...nearness } = teacher;
  const windows = request.windows.length;
  return {
    text: "held out",
    windows,
    tokens,
    perplexity: { before, after: perplexity },
    ...nearness,
  };
}

function reportOf(
  result: NativeCompressResult,
  rest: Pick<CompressReport, "out" | "calibration" | "quality" | "wallMs">,
): CompressReport {
  const { bytes, linears, resumedBlocks, tuned, stages } = result;
  const bitsPerWeight = { body: result.bitsPerWeightBody, file: result.bitsPerWeightFile };
  const plan = planOf(result.plan);
  return { bitsPerWeight, bytes, perLayer: linears, plan, resumedBlocks, tuned, stages, ...rest };
}

function cancelled(): ModelError {
  return new ModelError("ABORTED", "The compression was cancelled");
}

/** Events on their way to one consumer; of a phase that he has not kept up with, only the last. */
class Latest<T extends { phase: string }> {
  #waiting: T[] = [];
  #isEnded = false;
  #wake: (() => void) | undefined;

  push(event: T): void {
    if (this.#waiting.at(-1)?.phase === event.phase) this.#waiting.pop();
    this.#waiting.push(event);
    this.#wake?.();
  }

  end(): void {
    this.#isEnded = true;
    this.#wake?.();
  }

  async take(): Promise<T | undefined> {
    while (this.#waiting.length === 0 && !this.#isEnded) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    this.#wake = undefined;
    return this.#waiting.shift();
  }
}
