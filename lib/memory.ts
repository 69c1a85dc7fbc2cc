/**
 * What a model will hold in memory, before anything of it is loaded: asked of the engine's plan,
 * which reads headers alone. This file knows the parts of a process that the engine cannot see, the
 * tokenizer's, and turns byte counts into what the API shows.
 */
import { existsSync } from "node:fs";
import { stat } from "node:fs/promises";

import { fromNative } from "./errors.js";
import { type NativeMemoryEstimate, nativeAddon } from "./native.js";
import { type EstimateOptions, resolveEstimate } from "./options.js";
import { shapes } from "./shapes.js";
import {
  type ModelSource,
  pathOf,
  readJson,
  resolveSource,
  type TokenizerFiles,
} from "./source.js";

/** Bytes of each part; together they are `totalBytes`. */
export interface MemoryItems {
  /** Of the decoder blocks: file-backed, as are the next four. */
  weightsBody: number;
  /** Tables that linears share. */
  codebooks: number;
  embeddings: number;
  /** 0 where the embeddings serve as head. */
  lmHead: number;
  /** Headers and padding of the weight files. */
  fileRest: number;
  /** Keys and values with the context full. */
  kvCache: number;
  /** What a chunk of the prompt is computed in. */
  activations: number;
  /** What operations and weight formats take for themselves meanwhile. */
  scratch: number;
  /** Rotary tables. */
  rope: number;
  /** What loading makes of the weights: scales as floats, copies, names. */
  loaded: number;
  /** Logits, their order and probabilities. */
  sampling: number;
  /** Stacks of the engine's threads, and what these keep. */
  threads: number;
  /** The tokenizer's thread and tables. */
  tokenizer: number;
  /** What a GPU allocates for itself, where one may be used; weights and cache it shares. */
  gpu: number;
  /** What the process holds already, and what running in it adds. */
  runtime: number;
}

export interface MemoryEstimate {
  items: MemoryItems;
  /** What the process will measure as resident with the context full and every weight touched. */
  totalBytes: number;
  /** Of it, pages of the weight files: clean, so that the system may take them and read again. */
  mappedBytes: number;
  /** Of it, private memory: what Activity Monitor counts, and what only swap can take. */
  footprintBytes: number;
  peaks: {
    /** The most until loading has returned. */
    loadBytes: number;
    /** The most until the first token of a prompt that fills the context. */
    prefillBytes: number;
  };
  fits: {
    ok: boolean;
    limitBytes: number;
    /** Which limit binds: the caller's budget, or the tightest that the system has. */
    limitSource: MemoryLimitSource;
    /** What is left below the limit; negative where it does not fit. */
    marginBytes: number;
    /** In words, for people; empty where it fits. */
    reasons: string[];
  };
  contextLength: number;
  trainedContextLength: number;
  /** The largest context that fits, at most the trained one; 0 where none does. */
  maxContextLength: number;
  kvCache: "f16" | "int8" | "f32";
  /** `"high"`: from the files' own headers; `"low"`: worked out for a shape. */
  confidence: "high" | "low";
  architecture: string;
  parameters: number;
  bitsPerWeightBody: number;
}

export type MemoryLimitSource =
  | "budget"
  | "available"
  | "physical"
  | "cgroup"
  | "recommendedMaxWorkingSetSize";

/** What the machine has, in bytes; 0 where the system does not say. */
export interface SystemMemory {
  physicalBytes: number;
  /** What could be had now without swapping. */
  availableBytes: number;
  /** Limit of the tightest control group this process is in (Linux), and what is left of it. */
  groupLimitBytes: number;
  groupLeftBytes: number;
  /** The limit on GPU memory that a user has set (macOS, `iogpu.wired_limit_mb`). */
  wiredLimitBytes: number;
  swapUsedBytes: number;
  pressure: "normal" | "warning" | "critical";
}

/** What the machine has and lets this process have, asked anew. @throws ModelError */
export async function systemMemory(): Promise<SystemMemory> {
  return nativeAddon().systemMemory();
}

/**
 * What running a model will take: a directory, a llama2.c checkpoint, the name of a shape (see
 * `shapes`), or a config.json alone. Only headers are read; a safetensors file may end behind its
 * header.
 * @throws ModelError
 */
export async function estimateMemory(
  source: string | ModelSource,
  options: EstimateOptions = {},
): Promise<MemoryEstimate> {
  const { bitsPerWeight, memoryBudget, ...rest } = resolveEstimate(options);
  const path = pathOf(source);
  const request = { ...rest, budget: memoryBudget, path: "", config: "", bitsPerWeight: 0 };
  try {
    const config = await shapeOf(path);
    if (config) {
      const tokenizerBytes = tokenizerBytesOfVocab(Number(config["vocab_size"]));
      const asked = { ...request, config: JSON.stringify(config), bitsPerWeight, tokenizerBytes };
      return asEstimate(await nativeAddon().estimateMemory(asked), rest.kvCache, "low");
    }
    const resolved = await resolveSource(source);
    const tokenizerBytes = await tokenizerBytesOf(resolved.tokenizerFiles);
    const asked = { ...request, path: resolved.path, tokenizerBytes };
    return asEstimate(await nativeAddon().estimateMemory(asked), rest.kvCache, "high");
  } catch (error) {
    throw fromNative(error);
  }
}

/** The config that a source stands for where it is no model: of a known shape, or a file's. */
async function shapeOf(path: string): Promise<Readonly<Record<string, unknown>> | undefined> {
  if (path.endsWith(".json")) return await readJson(path, "read the config");
  return Object.hasOwn(shapes, path) && !existsSync(path) ? shapes[path] : undefined;
}

/** The engine's estimate as the API shows it. @internal */
export function asEstimate(
  native: NativeMemoryEstimate,
  kvCache: "f16" | "int8" | "f32",
  confidence: "high" | "low",
): MemoryEstimate {
  const { items, totalBytes, mappedBytes, limitBytes, limitSource, fits, ...rest } = native;
  return {
    items,
    totalBytes,
    mappedBytes,
    footprintBytes: native.privateBytes,
    peaks: { loadBytes: native.peakLoadBytes, prefillBytes: native.peakPrefillBytes },
    fits: {
      ok: fits,
      limitBytes,
      limitSource: limitSource as MemoryLimitSource,
      marginBytes: limitBytes - totalBytes,
      reasons: fits ? [] : reasonsOf(native),
    },
    contextLength: rest.contextLength,
    trainedContextLength: rest.trainedContextLength,
    maxContextLength: rest.maxContextLength,
    kvCache,
    confidence,
    architecture: rest.architecture,
    parameters: rest.parameters,
    bitsPerWeightBody: rest.bitsPerWeightBody,
  };
}

function reasonsOf(native: NativeMemoryEstimate): string[] {
  const { totalBytes, limitBytes, limitSource, contextLength, maxContextLength } = native;
  const mebibytes = (bytes: number) => `${Math.ceil(bytes / 2 ** 20).toLocaleString("en-US")} MiB`;
  return [
    `a context of ${contextLength} needs ${mebibytes(totalBytes)}, ` +
      `the limit is ${mebibytes(limitBytes)} (${limitSource})`,
    maxContextLength > 0
      ? `a context of ${maxContextLength} would fit`
      : "the weights alone are too much: no context fits",
  ];
}

const megabyte = 1e6;

/**
 * What a tokenizer takes: its thread, the library's maps, and the table that decodes. Measured with
 * Node 20 over tokenizer.json files of 12 KB to 5.6 MB (260 to 128,000 tokens): 13 to 199 MB, on
 * three lines that the measurements lie on or below.
 */
export function tokenizerBytesOfJson(bytes: number): number {
  const size = bytes / megabyte;
  const small = Math.min(size, 0.2);
  const middle = Math.min(Math.max(size - 0.2, 0), 1.8);
  const large = Math.max(size - 2, 0);
  return Math.round((15 + 70 * small + 36 * middle + 31 * large) * megabyte);
}

/** The same where there is no file to measure: two points of those measurements. */
function tokenizerBytesOfVocab(tokens: number): number {
  return Math.round((30 + 1.36e-3 * tokens) * megabyte);
}

/** The same for a model's files; 0 where it has no tokenizer. @internal */
export async function tokenizerBytesOf(files: TokenizerFiles): Promise<number> {
  const size = (await stat(files.tokenizer).catch(() => undefined))?.size;
  if (size === undefined) return 0;
  // A tokenizer.bin becomes a tokenizer.json of about 3.6 times its size, merges and all.
  return tokenizerBytesOfJson(files.kind === "llama2c" ? 3.6 * size : size);
}
