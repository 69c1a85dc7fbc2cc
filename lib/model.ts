/**
 * A loaded model: the native one, its tokenizer, and the generations under way, which end with it.
 */
import { checkChoice, invalidOption } from "./check.js";
import { type Device, deviceOf, verdictsFile } from "./device.js";
import { ModelError } from "./errors.js";
import { Generation } from "./generation.js";
import { runJob } from "./job.js";
import { asEstimate, type MemoryEstimate, tokenizerBytesOf } from "./memory.js";
import { type NativeModel, nativeAddon } from "./native.js";
import { type GenerateOptions, type LoadOptions, resolveGenerate, resolveLoad } from "./options.js";
import { type PressureListener, PressureWatch } from "./pressure.js";
import { type ModelSource, resolveSource } from "./source.js";
import { Tokenizer } from "./text.js";

export interface ModelInfo {
  /** Such as `"llama"`. */
  architecture: string;
  /** Weights in all, tied ones counted once. */
  parameters: number;
  /** Counted from the bytes of the file: over the decoder blocks' linears, and over everything. */
  bitsPerWeight: { body: number; file: number };
  /** Bytes of the weight files. */
  bytes: number;
  /** Tokens that prompt and answer may have together. */
  contextLength: number;
  trainedContextLength: number;
  vocabSize: number;
  layers: number;
  hiddenSize: number;
  /** The engine's own loading time; the tokenizer is built later, on first use. */
  loadMs: number;
}

export interface ScoreResult {
  tokens: number[];
  /** Natural logarithm of the probability of tokens[i + 1] after tokens[0..i]: one fewer. */
  logprobs: Float32Array;
  /** exp of minus their mean. */
  perplexity: number;
}

export interface MemoryReport {
  planned: MemoryEstimate;
  /** Of the whole process, whatever else it does. */
  process: {
    residentBytes: number;
    /** Of it, pages of mapped files, which the system may take back. */
    fileBytes: number;
    /** Of it, private. */
    anonymousBytes: number;
    peakResidentBytes: number;
    /** `phys_footprint` on macOS: what Activity Monitor shows. Elsewhere as `anonymousBytes`. */
    footprintBytes: number;
  };
  /** Keys and values of the tokens held now. */
  kvCacheUsedBytes: number;
  /** Activations and scratch: what was set aside, and how much of it was ever touched. */
  arenaPlannedBytes: number;
  arenaTouchedBytes: number;
  /** What the plan did not foresee. Anything but 0 is a mistake of ours. */
  unplannedBytes: number;
}

/** A model in memory. Made by `loadModel`; give it back with `dispose` or `await using`. */
export interface Model extends AsyncDisposable {
  readonly info: ModelInfo;
  readonly device: Device;
  readonly tokenizer: Tokenizer;
  /**
   * Continues `prompt`. Returns at once; the work starts when the generation is consumed.
   * Generations of one model run one after another.
   * @throws ModelError INVALID_OPTION, DISPOSED
   */
  generate(prompt: string, options?: GenerateOptions): Generation;
  /** How likely each token of a text is to this model. A text is put behind the start token. */
  score(
    input: string | readonly number[],
    options?: { signal?: AbortSignal },
  ): Promise<ScoreResult>;
  /** What was planned for this model, and what the process holds now. */
  memory(): MemoryReport;
  /**
   * Gives memory back when what runs has ended: at `"warning"` the unused end of the KV cache and
   * free scratch; at `"critical"` also the context's keys and values, which the next prompt
   * computes anew, and the tokenizer, which is built again when it is needed. Resolves to the
   * engine's bytes.
   */
  trim(level?: "warning" | "critical"): Promise<number>;
  /**
   * Calls `listener` when the machine's memory runs short, and again when it gets worse; the
   * listener may `trim()`. Returns a function that ends it.
   */
  on(event: "memorypressure", listener: PressureListener): () => void;
  /** Ends what runs, frees the model. Any number of calls do as one. */
  dispose(): Promise<void>;
}

/**
 * Loads a model: a Hugging Face directory, compressed or not, or a llama2.c checkpoint.
 * @throws ModelError; or the reason of `options.signal`
 */
export async function loadModel(
  source: string | ModelSource,
  options: LoadOptions = {},
): Promise<Model> {
  const { signal, onProgress, cacheDir, ...request } = resolveLoad(options);
  const verdicts = verdictsFile(cacheDir);
  signal?.throwIfAborted();
  const { path, tokenizerFiles, bosTokenId } = await resolveSource(source);
  const tokenizerBytes = await tokenizerBytesOf(tokenizerFiles);
  const full = { ...request, path, tokenizerBytes, verdicts, unpackToFloat: false };
  const native = await runJob((report) => nativeAddon().loadModel(full, report), {
    signal,
    onProgress,
  });
  const bos = native.facts.bosTokenIds[0] ?? bosTokenId;
  const tokenizer = new Tokenizer(tokenizerFiles, { bosTokenId: bos, cacheDir });
  return new LoadedModel(native, tokenizer, request.kvCache);
}

class LoadedModel implements Model {
  readonly info: ModelInfo;
  readonly device: Device;
  readonly tokenizer: Tokenizer;
  readonly #native: NativeModel;
  readonly #running = new Set<Generation>();
  readonly #pressure = new PressureWatch(() => nativeAddon().systemMemory().pressure);
  readonly #kvCache: MemoryEstimate["kvCache"];
  #disposal: Promise<void> | undefined;

  constructor(native: NativeModel, tokenizer: Tokenizer, kvCache: MemoryEstimate["kvCache"]) {
    const { facts } = native;
    this.#native = native;
    this.#kvCache = kvCache;
    this.tokenizer = tokenizer;
    this.info = Object.freeze({
      architecture: facts.architecture,
      parameters: facts.parameters,
      bitsPerWeight: Object.freeze({
        body: facts.bitsPerWeightBody,
        file: facts.bitsPerWeightFile,
      }),
      bytes: facts.fileBytes,
      contextLength: facts.contextLength,
      trainedContextLength: facts.trainedContextLength,
      vocabSize: facts.vocabSize,
      layers: facts.layers,
      hiddenSize: facts.hiddenSize,
      loadMs: facts.loadMs,
    });
    this.device = deviceOf(facts);
  }

  generate(prompt: string, options: GenerateOptions = {}): Generation {
    this.#throwIfDisposed();
    if (typeof prompt !== "string") throw invalidOption("the prompt", "a string", prompt);
    const context = {
      native: this.#native,
      tokenizer: this.tokenizer,
      onStart: (generation: Generation) => {
        this.#throwIfDisposed();
        this.#running.add(generation);
      },
      onEnd: (generation: Generation) => {
        this.#running.delete(generation);
      },
    };
    return new Generation(context, prompt, resolveGenerate(options, this.info));
  }

  async score(
    input: string | readonly number[],
    { signal }: { signal?: AbortSignal } = {},
  ): Promise<ScoreResult> {
    this.#throwIfDisposed();
    const tokens =
      typeof input === "string"
        ? this.tokenizer.withBos(await this.tokenizer.encode(input))
        : this.#checkedTokens(input);
    if (tokens.length < 2)
      throw invalidOption("the input", "two tokens or more", `${tokens.length}`);
    this.#throwIfDisposed();
    const { logprobs } = await runJob(() => this.#native.score(tokens), { signal });
    const sum = logprobs.reduce((total, logprob) => total + logprob, 0);
    return { tokens: [...tokens], logprobs, perplexity: Math.exp(-sum / logprobs.length) };
  }

  memory(): MemoryReport {
    this.#throwIfDisposed();
    const { planned, ...measured } = this.#native.memory();
    return { planned: asEstimate(planned, this.#kvCache, "high"), ...measured };
  }

  async trim(level: "warning" | "critical" = "warning"): Promise<number> {
    this.#throwIfDisposed();
    checkChoice("the level", level, ["warning", "critical"]);
    const isCritical = level === "critical";
    // First the tokenizer: what its thread leaves in the heap goes with the engine's own.
    if (isCritical) await this.tokenizer.rest();
    return await runJob(() => this.#native.trim(isCritical), {});
  }

  on(event: "memorypressure", listener: PressureListener): () => void {
    this.#throwIfDisposed();
    checkChoice("the event", event, ["memorypressure"]);
    if (typeof listener !== "function") throw invalidOption("the listener", "a function", listener);
    return this.#pressure.add(listener);
  }

  dispose(): Promise<void> {
    this.#disposal ??= this.#dispose();
    return this.#disposal;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  async #dispose(): Promise<void> {
    this.#pressure.close();
    for (const generation of this.#running) generation.dispose();
    await Promise.all([this.#native.dispose(), this.tokenizer.close()]);
  }

  #throwIfDisposed(): void {
    if (this.#disposal) throw new ModelError("DISPOSED", "The model has been disposed");
  }

  #checkedTokens(input: readonly number[]): Int32Array {
    const { vocabSize } = this.info;
    const bad = input.find(
      (token) => !(Number.isInteger(token) && token >= 0 && token < vocabSize),
    );
    if (bad !== undefined) throw invalidOption("a token", `a whole number below ${vocabSize}`, bad);
    return Int32Array.from(input);
  }
}
