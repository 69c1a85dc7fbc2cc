/**
 * Every option of the public API with its default and its range, and the functions that turn what a
 * user passed into complete, checked values. No other file knows a default.
 */
import { randomBytes } from "node:crypto";

import {
  checkChoice,
  checkKeys,
  checkListener,
  checkNumber,
  checkSignal,
  checkText,
  invalidOption,
} from "./check.js";
import type { ProgressListener } from "./job.js";
import type { NativeKeepRule, NativeTarget } from "./native.js";

const whole = (min: number, max = Number.MAX_SAFE_INTEGER) => ({ min, max, integer: true });
const float32Max = 3.4e38;

/** The number formats a KV cache may have. */
export const kvCaches = ["f16", "int8", "f32"] as const;

/** What a model may be told to run on. */
export const devices = ["auto", "metal", "cpu"] as const;

/** Options of every call that runs the engine. */
export interface WorkOptions {
  /** Threads of the engine. Default: the machine's performance cores. */
  threads?: number;
  /** Aborts at once; what is thrown is the signal's own reason. */
  signal?: AbortSignal;
  /** Told how far the work has come. */
  onProgress?: ProgressListener;
}

/** Where a token cache may be kept. */
export interface CacheOptions {
  /**
   * Where the token ids of long texts are kept between runs. Default: the system's cache directory
   * for subbit (`~/.cache/subbit` on Linux, `~/Library/Caches/subbit` on macOS).
   */
  cacheDir?: string;
}

export interface LoadOptions extends WorkOptions, CacheOptions {
  /** Tokens that the KV cache holds. Default: what the model was trained with. */
  contextLength?: number;
  /**
   * Number format of the KV cache. Default `"f16"`; `"int8"` takes about half of that, with a scale
   * for each head and position.
   */
  kvCache?: (typeof kvCaches)[number];
  /**
   * How much the process may hold with the model loaded and its context full: bytes, or such as
   * `"4GB"` or `"4GiB"`. Default: what the system has available, and its control group allows.
   */
  memoryBudget?: number | string;
  /**
   * What to do when the plan is over that: throw INSUFFICIENT_MEMORY before anything is loaded
   * (default), take the largest context that fits, or load all the same.
   */
  onInsufficientMemory?: "throw" | "shrink-context" | "ignore";
  /**
   * What to run on. `"auto"` (default) takes the GPU of a Mac once it has given the processor's
   * answers on this very model, else the processor: `model.device.reason` says why. `"metal"` takes
   * the GPU or fails.
   */
  device?: (typeof devices)[number];
  /**
   * What multiplies prompts on the processor, one of `doctor`'s `cpu.promptKernels`: on a Mac
   * `"neon_dot"`, `"accelerate"` and, from the M2 on, `"neon_i8mm"`. Default: the fastest, measured
   * once. For the whole process, until another model is loaded; all give the same results.
   */
  promptKernel?: string;
}

export interface EstimateOptions {
  /** Tokens that the KV cache holds. Default: what the model was trained with. */
  contextLength?: number;
  /** Number format of the KV cache. Default `"f16"`. */
  kvCache?: LoadOptions["kvCache"];
  /** Threads of the engine. Default: the machine's performance cores. */
  threads?: number;
  /** As in `loadModel`. */
  memoryBudget?: number | string;
  /** Bits per weight of the decoder blocks, where the source is a shape. Default 0.8. */
  bitsPerWeight?: number;
  /** As in `loadModel`: where there is a GPU and it may be used, its memory is planned too. */
  device?: LoadOptions["device"];
}

export interface GenerateOptions {
  /** At most this many new tokens. Default: until the model stops or its context is full. */
  maxTokens?: number;
  /** 0 always takes the likeliest token; higher is more varied. Default 0. */
  temperature?: number;
  /** Sample among the k likeliest tokens; 0 is no limit. Default 0. */
  topK?: number;
  /** Sample among the likeliest tokens that together have this probability. Default 1: no limit. */
  topP?: number;
  /** Drop tokens less likely than this times the likeliest. Default 0: no limit. */
  minP?: number;
  /** The same seed gives the same text. Default: a random one. Of no use at temperature 0. */
  seed?: number;
  /** Divides the logits of tokens seen before (multiplies where negative). Default 1: none. */
  repetitionPenalty?: number;
  /** Taken once from the logits of tokens generated before. Default 0. */
  presencePenalty?: number;
  /** Taken from the logits of tokens generated before, for each time. Default 0. */
  frequencyPenalty?: number;
  /** Added to the logits of single tokens, by token id. */
  logitBias?: Record<number, number>;
  /** Text that ends the generation; it is not part of the result. */
  stop?: string | string[];
  /** Aborts at once. */
  signal?: AbortSignal;
  /** What an abort does: throw the signal's reason (default), or end with what there is so far. */
  onAbort?: "throw" | "return";
}

export type Effort = "fast" | "balanced" | "max";

/**
 * Text to measure activations on, and to tune on: texts, or files. Each gives an equal share of the
 * tokens, and a short one what it has.
 */
export type Calibration =
  | string[]
  | {
      /** A UTF-8 file, or several. */
      file: string | string[];
      /** How many of their tokens to use, in all. Default: by effort. */
      tokens?: number;
      /**
       * Tokens of one window, the start token included. Default: what the model was trained with,
       * at most 2,048. Tuning holds the activations of a whole window.
       */
      context?: number;
    };

/**
 * What the result may weigh. A file is its weight file, whole: header, blocks, embeddings and head.
 * The tokenizer and `config.json` beside it do not count. Bytes are a number or a text such as
 * `"5.8MB"` (millions) or `"4GiB"` (2^30).
 */
export type CompressTarget =
  /** Bits per weight of the decoder blocks, norms included. */
  | { bitsPerWeight: number }
  /** Bits of the file over all parameters, tied ones counted once. */
  | { fileBitsPerWeight: number }
  /** Bytes of the file. */
  | { bytes: number | string }
  /** Bytes of the file and of what running it takes beside it, its KV cache above all. */
  | { fitsBudget: number | string; contextLength?: number };

/**
 * What is asked of single linear layers, by name: `"fp16"` leaves one as the checkpoint has it; 8,
 * 4, 3 or 2 stores it in groups of so many bits and a scale; a number below 2 compresses it to
 * that; `{ atLeast }` to no less. In a name `*` stands for any run of characters, `?` for one; of
 * several that match, the last holds. Layers that read the same input are compressed together (q, k
 * and v; gate and up): what is asked of one of them holds for all.
 */
export type Keep = Readonly<Record<string, "fp16" | number | { atLeast: number }>>;

/**
 * What compressed layers are made of. `"factored"`: two matrices of signs. `"tables"`: for every 4,
 * 8 or 16 weights an index into vectors that the model's layers share and that are learned with
 * them. `"codes"`: signs, pairs of signs, and words of eight signs. `"mixed"`: for each layer what
 * is predicted to err least before tuning.
 */
export type Forms = (typeof forms)[number];
const forms = ["factored", "tables", "codes", "mixed"] as const;

/**
 * What an error in a layer is thought to cost. `"assumed"`: as much per weight in every layer.
 * `"measured"`: the divergence of the model with that layer alone reduced to signs, which takes a
 * few forward passes a layer, and after which bits move between layers.
 */
export type Sensitivity = (typeof sensitivities)[number];
const sensitivities = ["assumed", "measured"] as const;

/** Bits of a code, to which scales are added; 16 is as the checkpoint has it. */
export type EndBits = (typeof endBits)[number];
const endBits = [2, 3, 4, 8, 16] as const;

export interface CompressOptions extends CacheOptions {
  /** The directory to write. */
  out: string;
  target: CompressTarget;
  /** Exceptions for single layers. */
  keep?: Keep;
  /** Default `"factored"`, which runs fastest. */
  forms?: Forms;
  /**
   * Default `"assumed"`. `"measured"` gains where little is tuned, and nothing where much is; its
   * dry run shows the plan before the measurement.
   */
  sensitivity?: Sensitivity;
  /** Bits of the token embeddings. Default 4. */
  embeddings?: EndBits;
  /** Bits of the head. Default: as the embeddings, which a tied head cannot differ from. */
  lmHead?: EndBits;
  /**
   * Default: text that the model itself writes from its start token at temperature 1. Text like
   * that on which the model will be used is better.
   */
  calibration?: Calibration;
  /** How long to work on it. Default `"balanced"`. */
  effort?: Effort;
  /** The same seed gives the same bytes. Default 0. */
  seed?: number;
  /** Replace `out` if it exists. Default false: that is an error. */
  overwrite?: boolean;
  /**
   * Where finished blocks are kept so that a rerun resumes. Default: `<out>.state`, which is
   * removed when all is done; a directory named here is left alone.
   */
  state?: string;
  /**
   * How much memory the work may take beside mapped files: bytes, or such as "8GB". Default: what
   * the system has and allows.
   */
  memoryBudget?: number | string;
  /**
   * Where the plan is over the limit: `"throw"`, before the work begins, or `"ignore"`. Default
   * `"throw"`.
   */
  onInsufficientMemory?: "throw" | "ignore";
  threads?: number;
  signal?: AbortSignal;
}

/** Of `compress`'s options those that shape the result, and the text that its cost depends on. */
export interface PlanOptions
  extends WorkOptions,
    Pick<
      CompressOptions,
      | "target"
      | "keep"
      | "forms"
      | "sensitivity"
      | "embeddings"
      | "lmHead"
      | "calibration"
      | "cacheDir"
    > {}

export interface EvaluateOptions extends WorkOptions, CacheOptions {
  /** The text to predict. Either this or `file`. */
  text?: string;
  /** A UTF-8 file with the text to predict. */
  file?: string;
  /** How many windows of the text, from its start, at most. Default 64. */
  windows?: number;
  /** Tokens of a window, the start token included. Default 256. */
  context?: number;
  /** A model to compare with: KL divergence and agreement of the likeliest token. */
  teacher?: string;
}

export interface SynthesizeOptions {
  /** The name of a shape (`shapes`), or a Hugging Face `config.json`: its path. */
  shape: string;
  /** The directory to write. It must not exist, or be empty. */
  out: string;
  /** At most so many bits per weight of the decoder blocks. Default 0.8. */
  bitsPerWeight?: number;
  /** The same seed gives the same bytes. Default 0. */
  seed?: number;
  signal?: AbortSignal;
  onProgress?: ProgressListener;
}

export interface BenchmarkOptions extends WorkOptions {
  /** Tokens that the KV cache holds. Default: what the model was trained with. */
  contextLength?: number;
  /**
   * Number format of the KV cache. Default `"f16"`; `"int8"` takes about half of that, with a scale
   * for each head and position.
   */
  kvCache?: LoadOptions["kvCache"];
  /** As in `loadModel`. */
  device?: LoadOptions["device"];
  /** As in `loadModel`. */
  promptKernel?: string;
  /** Tokens of the prompt, 2 or more. Default 128. */
  promptTokens?: number;
  /** Tokens decoded after it. Default 32. */
  generateTokens?: number;
  /** How often both are measured. Default 3. */
  repeats?: number;
  /**
   * Measure at the end of a full context: the whole KV cache is filled, without computing it.
   * Default false.
   */
  fillContext?: boolean;
}

/** Calibration tokens by effort, where the caller gave text and no number. */
export const calibrationTokens: Readonly<Record<Effort, number>> = {
  fast: 16_384,
  balanced: 262_144,
  max: 1_048_576,
};

/**
 * The same where the model writes its own text: decoding is many times slower than prefill, so the
 * budget is smaller.
 */
export const generatedCalibrationTokens: Readonly<Record<Effort, number>> = {
  fast: 4_096,
  balanced: 16_384,
  max: 65_536,
};

/** The longest calibration window: longer ones cost attention time and add no new statistics. */
export const calibrationContext = 2_048;

/** 0 asks the engine for the machine's performance cores. */
function threadsOf(value: unknown): number {
  return value === undefined ? 0 : checkNumber("threads", value, whole(1, 1_024));
}

function cacheDirOf(value: unknown): string | undefined {
  return value === undefined ? undefined : checkText("cacheDir", value);
}

function numberOf(options: object, name: string, fallback: number, range: Range): number {
  const value: unknown = Reflect.get(options, name);
  return value === undefined ? fallback : checkNumber(name, value, range);
}
type Range = Parameters<typeof checkNumber>[2];

const units: Readonly<Record<string, number>> = { K: 1, M: 2, G: 3, T: 4 };

/** Bytes of such as 4e9, "4GB" or "3.5 GiB"; 0 where nothing is said. */
export function bytesOf(option: string, value: unknown): number {
  if (value === undefined) return 0;
  const most = Number.MAX_SAFE_INTEGER;
  if (typeof value === "number") return checkNumber(option, value, whole(1, most));
  const match = /^\s*(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?)B|B)?\s*$/i.exec(String(value));
  if (typeof value !== "string" || !match) {
    throw invalidOption(option, 'a number of bytes, or such as "4GB" or "4GiB"', value);
  }
  const [, digits, unit = "", binary = ""] = match;
  const bytes = Number(digits) * (binary ? 1024 : 1000) ** (units[unit.toUpperCase()] ?? 0);
  return checkNumber(option, Math.round(bytes), whole(1, most));
}

/** Checks `estimateMemory`'s options; zeros let the engine choose. */
export function resolveEstimate(options: EstimateOptions) {
  const known = ["contextLength", "kvCache", "threads", "memoryBudget", "bitsPerWeight", "device"];
  checkKeys("options", options, known);
  return {
    contextLength: numberOf(options, "contextLength", 0, whole(1, 2 ** 24)),
    kvCache: checkChoice("kvCache", options.kvCache ?? "f16", kvCaches),
    threads: threadsOf(options.threads),
    device: checkChoice("device", options.device ?? "auto", devices),
    memoryBudget: bytesOf("memoryBudget", options.memoryBudget),
    bitsPerWeight: numberOf(options, "bitsPerWeight", 0.8, { min: 0, max: 32, above: true }),
  };
}

/** Checks `loadModel`'s options; `contextLength` 0 and `threads` 0 let the engine choose. */
export function resolveLoad(options: LoadOptions) {
  checkKeys("options", options, [
    "threads",
    "signal",
    "onProgress",
    "contextLength",
    "kvCache",
    "device",
    "cacheDir",
    "memoryBudget",
    "onInsufficientMemory",
    "promptKernel",
  ]);
  return {
    threads: threadsOf(options.threads),
    contextLength: numberOf(options, "contextLength", 0, whole(1, 2 ** 31 - 1)),
    kvCache: checkChoice("kvCache", options.kvCache ?? "f16", kvCaches),
    memoryBudget: bytesOf("memoryBudget", options.memoryBudget),
    onInsufficientMemory: checkChoice(
      "onInsufficientMemory",
      options.onInsufficientMemory ?? "throw",
      ["throw", "shrink-context", "ignore"],
    ),
    device: checkChoice("device", options.device ?? "auto", devices),
    ...(options.promptKernel === undefined
      ? {}
      : { promptKernel: checkText("promptKernel", options.promptKernel) }),
    cacheDir: cacheDirOf(options.cacheDir),
    signal: checkSignal("signal", options.signal),
    onProgress: checkListener("onProgress", options.onProgress),
  };
}

export type ResolvedGenerate = ReturnType<typeof resolveGenerate>;

/** Checks `generate`'s options against a model of `vocabSize` tokens and `contextLength`. */
export function resolveGenerate(
  options: GenerateOptions,
  { vocabSize, contextLength }: { vocabSize: number; contextLength: number },
) {
  checkKeys("options", options, [
    "maxTokens",
    "temperature",
    "topK",
    "topP",
    "minP",
    "seed",
    "repetitionPenalty",
    "presencePenalty",
    "frequencyPenalty",
    "logitBias",
    "stop",
    "signal",
    "onAbort",
  ]);
  const penalty = { min: -100, max: 100 };
  return {
    maxTokens: numberOf(options, "maxTokens", contextLength, whole(1)),
    temperature: numberOf(options, "temperature", 0, { min: 0, max: 100 }),
    topK: numberOf(options, "topK", 0, whole(0, 2 ** 31 - 1)),
    topP: numberOf(options, "topP", 1, { min: 0, max: 1, above: true }),
    minP: numberOf(options, "minP", 0, { min: 0, max: 1 }),
    repetitionPenalty: numberOf(options, "repetitionPenalty", 1, { min: 0, max: 100, above: true }),
    presencePenalty: numberOf(options, "presencePenalty", 0, penalty),
    frequencyPenalty: numberOf(options, "frequencyPenalty", 0, penalty),
    logitBias: logitBiasOf(options.logitBias, vocabSize),
    stop: stopOf(options.stop),
    seed: numberOf(options, "seed", randomBytes(6).readUIntBE(0, 6), whole(0)),
    signal: checkSignal("signal", options.signal),
    onAbort: checkChoice("onAbort", options.onAbort ?? "throw", ["throw", "return"]),
  };
}

function logitBiasOf(value: unknown, vocabSize: number): [token: number, bias: number][] {
  if (value === undefined) return [];
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw invalidOption("logitBias", "an object from token ids to numbers", value);
  }
  return Object.entries(value).map(([key, bias]) => [
    checkNumber("a token id of logitBias", key === "" ? key : Number(key), whole(0, vocabSize - 1)),
    checkNumber(`logitBias[${key}]`, bias, { min: -float32Max, max: float32Max }),
  ]);
}

function stopOf(value: unknown): string[] {
  if (value === undefined) return [];
  return (Array.isArray(value) ? value : [value]).map((stop) => checkText("stop", stop));
}

/** Checks `compress`'s options. `state` undefined: beside `out`, and removed at the end. */
export function resolveCompress(options: CompressOptions) {
  checkKeys("options", options, [
    "out",
    "target",
    "keep",
    "forms",
    "sensitivity",
    "embeddings",
    "lmHead",
    "calibration",
    "effort",
    "seed",
    "overwrite",
    "state",
    "memoryBudget",
    "onInsufficientMemory",
    "threads",
    "signal",
    "cacheDir",
  ]);
  const efforts = ["fast", "balanced", "max"] as const;
  if (options.overwrite !== undefined && typeof options.overwrite !== "boolean") {
    throw invalidOption("overwrite", "true or false", options.overwrite);
  }
  return {
    out: checkText("out", options.out),
    ...formOf(options),
    calibration: calibrationOf(options.calibration),
    effort: checkChoice("effort", options.effort ?? "balanced", efforts),
    seed: numberOf(options, "seed", 0, whole(0)),
    overwrite: options.overwrite ?? false,
    state: options.state === undefined ? undefined : checkText("state", options.state),
    memoryBudget: bytesOf("memoryBudget", options.memoryBudget),
    onInsufficientMemory: checkChoice(
      "onInsufficientMemory",
      options.onInsufficientMemory ?? "throw",
      ["throw", "ignore"] as const,
    ),
    threads: threadsOf(options.threads),
    signal: checkSignal("signal", options.signal),
    cacheDir: cacheDirOf(options.cacheDir),
  };
}

/** Checks `planCompression`'s options. */
export function resolvePlan(options: PlanOptions) {
  checkKeys("options", options, [
    "target",
    "keep",
    "forms",
    "sensitivity",
    "embeddings",
    "lmHead",
    "calibration",
    "threads",
    "signal",
    "onProgress",
    "cacheDir",
  ]);
  return {
    ...formOf(options),
    calibration: calibrationOf(options.calibration),
    threads: threadsOf(options.threads),
    signal: checkSignal("signal", options.signal),
    onProgress: checkListener("onProgress", options.onProgress),
    cacheDir: cacheDirOf(options.cacheDir),
  };
}

/** What the compressed model will look like. */
function formOf(options: PlanOptions) {
  const { target, keep, embeddings, lmHead } = options;
  return {
    target: targetOf(target),
    keep: keepOf(keep),
    forms: checkChoice("forms", options.forms ?? "factored", forms),
    sensitivity: checkChoice("sensitivity", options.sensitivity ?? "assumed", sensitivities),
    ends: {
      embeddings: endBitsOf("embeddings", embeddings ?? 4),
      lmHead: lmHead === undefined ? 0 : endBitsOf("lmHead", lmHead),
    },
  };
}

const targets = {
  bitsPerWeight: "bodyBits",
  fileBitsPerWeight: "fileBits",
  bytes: "fileBytes",
  fitsBudget: "memoryBytes",
} as const;

/** What a given model can reach depends on its shapes; the engine says so by name. */
function targetOf(value: unknown): NativeTarget {
  const names = Object.keys(targets) as (keyof typeof targets)[];
  checkKeys("target", value, [...names, "contextLength"]);
  const given = value as Record<string, unknown>;
  const chosen = names.filter((name) => given[name] !== undefined);
  const [name] = chosen;
  if (!name || chosen.length > 1) {
    throw invalidOption("target", `one of ${names.join(", ")}`, chosen.join(", ") || "none");
  }
  const contextLength =
    given.contextLength === undefined
      ? 0
      : checkNumber("target.contextLength", given.contextLength, whole(1, 2 ** 31 - 1));
  if (contextLength > 0 && name !== "fitsBudget") {
    throw invalidOption("target.contextLength", "given with fitsBudget", `given with ${name}`);
  }
  const option = `target.${name}`;
  const isBits = name === "bitsPerWeight" || name === "fileBitsPerWeight";
  const amount = isBits
    ? checkNumber(option, given[name], { min: 0, max: 32, above: true })
    : bytesOf(option, given[name]);
  return { unit: targets[name], amount, contextLength };
}

function keepOf(value: unknown): NativeKeepRule[] {
  if (value === undefined) return [];
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw invalidOption("keep", "an object from names to bits", value);
  }
  const bits = { min: 0, max: 32, above: true };
  return Object.entries(value).map(([pattern, asked]: [string, unknown]) => {
    const option = `keep[${JSON.stringify(pattern)}]`;
    if (asked === "fp16") return { pattern, rule: "asStored", bits: 0 };
    if (typeof asked === "object" && asked !== null) {
      checkKeys(option, asked, ["atLeast"]);
      const least: unknown = Reflect.get(asked, "atLeast");
      return { pattern, rule: "atLeast", bits: checkNumber(`${option}.atLeast`, least, bits) };
    }
    if (typeof asked !== "number") {
      throw invalidOption(option, '"fp16", a number of bits, or { atLeast }', asked);
    }
    return { pattern, rule: "bits", bits: checkNumber(option, asked, bits) };
  });
}

function endBitsOf(option: string, value: unknown): number {
  if (endBits.includes(value as EndBits)) return value as number;
  throw invalidOption(option, `one of ${endBits.join(", ")}`, value);
}

function calibrationOf(value: unknown): Calibration | undefined {
  if (value === undefined) return undefined;
  if (Array.isArray(value)) {
    if (value.length === 0) throw invalidOption("calibration", "at least one text", value);
    return value.map((text) => checkText("a text of calibration", text));
  }
  if (typeof value === "string") {
    throw invalidOption("calibration", "an array of texts or { file }", value);
  }
  checkKeys("calibration", value, ["file", "tokens", "context"]);
  const { file } = value as { file?: unknown };
  if (Array.isArray(file) && file.length === 0) {
    throw invalidOption("calibration.file", "at least one file", file);
  }
  const count = (name: "tokens" | "context", least: number) => {
    const given: unknown = Reflect.get(value as object, name);
    return given === undefined
      ? undefined
      : checkNumber(`calibration.${name}`, given, whole(least));
  };
  return {
    file: Array.isArray(file)
      ? file.map((one) => checkText("a file of calibration", one))
      : checkText("calibration.file", file),
    tokens: count("tokens", 1),
    context: count("context", 2),
  };
}

const bodyBits = { min: 0, max: 8, above: true };

/** Checks `synthesize`'s options. */
export function resolveSynthesize(options: SynthesizeOptions) {
  const known = ["shape", "out", "bitsPerWeight", "seed", "signal", "onProgress"];
  checkKeys("options", options, known);
  return {
    shape: checkText("shape", options.shape),
    out: checkText("out", options.out),
    bitsPerWeight: numberOf(options, "bitsPerWeight", 0.8, bodyBits),
    seed: numberOf(options, "seed", 0, whole(0)),
    signal: checkSignal("signal", options.signal),
    onProgress: checkListener("onProgress", options.onProgress),
  };
}

/** Checks `benchmark`'s options; `contextLength` 0 and `threads` 0 let the engine choose. */
export function resolveBenchmark({
  promptTokens,
  generateTokens,
  repeats,
  fillContext = false,
  ...load
}: BenchmarkOptions) {
  if (typeof fillContext !== "boolean") {
    throw invalidOption("fillContext", "true or false", fillContext);
  }
  const own = { promptTokens, generateTokens, repeats };
  return {
    ...resolveLoad(load),
    promptTokens: numberOf(own, "promptTokens", 128, whole(2, 2 ** 31 - 1)),
    generateTokens: numberOf(own, "generateTokens", 32, whole(1, 2 ** 31 - 1)),
    repeats: numberOf(own, "repeats", 3, whole(1, 1_000)),
    fillContext,
  };
}

/** Checks `evaluate`'s options. */
export function resolveEvaluate(options: EvaluateOptions) {
  checkKeys("options", options, [
    "text",
    "file",
    "windows",
    "context",
    "teacher",
    "threads",
    "signal",
    "onProgress",
    "cacheDir",
  ]);
  const { text, file } = options;
  if ((text === undefined) === (file === undefined)) {
    throw invalidOption(
      "options",
      "given either text or file",
      text === undefined ? "neither" : "both",
    );
  }
  return {
    text: text === undefined ? undefined : checkText("text", text),
    file: file === undefined ? undefined : checkText("file", file),
    windows: numberOf(options, "windows", 64, whole(1)),
    context: numberOf(options, "context", 256, whole(2, 2 ** 31 - 1)),
    teacher: options.teacher === undefined ? undefined : checkText("teacher", options.teacher),
    threads: threadsOf(options.threads),
    signal: checkSignal("signal", options.signal),
    onProgress: checkListener("onProgress", options.onProgress),
    cacheDir: cacheDirOf(options.cacheDir),
  };
}
