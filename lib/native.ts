/**
 * The typed face of the native addon, and the only file that loads the binary. Everything here is
 * token ids, numbers and paths; text never crosses this line.
 */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

import { ModelError } from "./errors.js";
import { packageRoot } from "./package.js";

export interface NativeProgress {
  phase: string;
  loaded: number;
  total: number;
  detail: string;
}

/** Long work on a native thread. `abort()` makes `promise` reject with code ABORTED. */
export interface NativeJob<T> {
  readonly promise: Promise<T>;
  abort(): void;
}

export interface NativeLoadRequest {
  path: string;
  threads: number;
  contextLength: number;
  kvCache: "f16" | "int8" | "f32";
  unpackToFloat: boolean;
  /** 0, or left out: what the system allows. */
  memoryBudget?: number;
  /** Left out: throw. */
  onInsufficientMemory?: "throw" | "shrink-context" | "ignore";
  /** What the tokenizer will add, for the plan. */
  tokenizerBytes?: number;
  /** Left out: the processor. */
  device?: "auto" | "metal" | "cpu";
  /** A file that remembers which devices have proved themselves. */
  verdicts?: string;
  /** Left out: the fastest. */
  promptKernel?: string;
}

export interface NativeDevice {
  backend: "metal" | "cpu";
  /** The GPU's own; empty for the processor. */
  name: string;
  /** Why it is not the GPU although that was welcome; else empty. */
  reason: string;
  /** Of the GPU: those that its trial chose; else empty. */
  kernels: string;
}

/** What a Mac's GPU says of itself, and what was measured of it. */
export interface NativeGpu {
  name: string;
  system: string;
  family: number;
  maxBufferBytes: number;
  workingSetBytes: number;
  threadgroupBytes: number;
  /** What it reads when it does nothing else, measured. */
  bytesPerSecond: number;
  /** And columns, of the matrices that kernels were timed on. */
  timedRows: number;
}

/** One GPU kernel, tried. */
export interface NativeKernel {
  name: string;
  /**
   * Whether it computes what the processor computes. `"unusable"`: the system's shader compiler
   * refuses it. `"unjudged"`: no model runs it, or what it needs is wrong.
   */
  verdict: "right" | "wrong" | "unusable" | "unjudged";
  /** Threads that one threadgroup may have; 0 where it is unusable. */
  maxThreads: number;
}

/** What multiplies on the processor. */
export interface NativeProcessorKernels {
  /** The instructions that multiply signs, such as `"avx2"`. */
  signKernel: string;
  /** What multiplies prompts: the fastest of those that this machine can run, measured. */
  promptKernel: string;
  promptKernels: string[];
}

export interface NativeDoctorReport extends NativeProcessorKernels {
  version: string;
  performanceCores: number;
  /** Why there is no `gpu`. */
  gpuReason: string;
  gpu?: NativeGpu & {
    /** A reason is empty, and times are 0, where there is none. */
    kernels: (NativeKernel & {
      reason: string;
      tokens: number;
      seconds: number;
      bytesPerSecond: number;
    })[];
  };
}

export interface NativeMemoryRequest {
  /** Empty: the shape that `config` describes, at `bitsPerWeight`. */
  path: string;
  config: string;
  bitsPerWeight: number;
  threads: number;
  contextLength: number;
  kvCache: "f16" | "int8" | "f32";
  budget: number;
  tokenizerBytes: number;
  device: "auto" | "metal" | "cpu";
}

export interface NativeMemoryEstimate {
  items: {
    weightsBody: number;
    codebooks: number;
    embeddings: number;
    lmHead: number;
    fileRest: number;
    kvCache: number;
    activations: number;
    scratch: number;
    rope: number;
    loaded: number;
    sampling: number;
    threads: number;
    tokenizer: number;
    gpu: number;
    runtime: number;
  };
  totalBytes: number;
  mappedBytes: number;
  privateBytes: number;
  peakLoadBytes: number;
  peakPrefillBytes: number;
  limitBytes: number;
  limitSource: string;
  fits: boolean;
  architecture: string;
  parameters: number;
  bitsPerWeightBody: number;
  contextLength: number;
  trainedContextLength: number;
  maxContextLength: number;
}

export interface NativeProcessMemory {
  residentBytes: number;
  fileBytes: number;
  anonymousBytes: number;
  peakResidentBytes: number;
  footprintBytes: number;
}

export interface NativeMemoryReport {
  planned: NativeMemoryEstimate;
  process: NativeProcessMemory;
  kvCacheUsedBytes: number;
  arenaPlannedBytes: number;
  arenaTouchedBytes: number;
  unplannedBytes: number;
}

export interface NativeSystemMemory {
  physicalBytes: number;
  availableBytes: number;
  groupLimitBytes: number;
  groupLeftBytes: number;
  wiredLimitBytes: number;
  swapUsedBytes: number;
  pressure: "normal" | "warning" | "critical";
}

export interface NativeModelFacts {
  architecture: string;
  parameters: number;
  contextLength: number;
  trainedContextLength: number;
  vocabSize: number;
  layers: number;
  hiddenSize: number;
  bitsPerWeightBody: number;
  bitsPerWeightFile: number;
  fileBytes: number;
  bosTokenIds: number[];
  eosTokenIds: number[];
  threads: number;
  device: NativeDevice;
  loadMs: number;
  weightBytesPerToken: number;
  kvBytesPerPosition: number;
}

export interface NativeGenerateRequest {
  prompt: Int32Array;
  maxTokens: number;
  stopTokens: Int32Array;
  temperature: number;
  topK: number;
  topP: number;
  minP: number;
  repetitionPenalty: number;
  presencePenalty: number;
  frequencyPenalty: number;
  logitBias: [token: number, bias: number][];
  seed: bigint;
}

export interface NativeGenerateResult {
  finishReason: "stop" | "length" | "context";
  promptTokens: number;
  cachedTokens: number;
  generatedTokens: number;
  prefillMs: number;
  decodeMs: number;
  /** Processor time of the whole process meanwhile. */
  prefillCpuMs: number;
  decodeCpuMs: number;
}

export interface NativeModel {
  readonly facts: NativeModelFacts;
  generate(
    request: NativeGenerateRequest,
    onToken: (token: number) => void,
  ): NativeJob<NativeGenerateResult>;
  score(tokens: Int32Array): NativeJob<{ logprobs: Float32Array }>;
  /** Fills the KV cache without computing; the first `tokens` positions are then tokens 0. */
  fillContext(tokens: number): NativeJob<void>;
  memory(): NativeMemoryReport;
  /** Bytes given back. */
  trim(forgetContext: boolean): NativeJob<number>;
  dispose(): Promise<void>;
}

export interface NativeEvaluateRequest {
  path: string;
  teacherPath: string;
  windows: Int32Array[];
  threads: number;
  unpackToFloat: boolean;
}

export interface NativeEvaluateResult {
  tokens: number;
  perplexity: number;
  teacher?: { perplexity: number; klMean: number; klP99: number; top1Agreement: number };
}

export interface NativeInspection {
  architecture: string;
  parameters: number;
  bytes: number;
  bitsPerWeightBody: number;
  bitsPerWeightFile: number;
  tensors: {
    name: string;
    format: string;
    shape: number[];
    bytes: number;
    bitsPerWeight: number;
    body: boolean;
  }[];
}

/** One training; a number left out is the effort's. */
export interface NativeTraining {
  /** 0 leaves the stage out. */
  updates?: number;
  /** Of an update, at least: whole windows. */
  tokens?: number;
  /** Of signs' latents, or of float weights relative to their size. */
  rate?: number;
  /** Of scales and norms, relative to their size. */
  scaleRate?: number;
  /** Of embedding and head, in steps between codes; 0: they stand. Of `model` alone. */
  endRate?: number;
}

/** What a compression does, stage by stage; for `bench/quality`, which measures their worth. */
export interface NativeStages {
  rates?: "allocated" | "uniform";
  gradientWindows?: number;
  sensitivityWindows?: number;
  teacherTokens?: number;
  absorb?: NativeTraining;
  refine?: NativeTraining;
  block?: NativeTraining;
  model?: NativeTraining;
}

export interface NativeTarget {
  unit: "bodyBits" | "fileBits" | "fileBytes" | "memoryBytes";
  amount: number;
  /** Of memoryBytes; 0: what the model was trained with. */
  contextLength?: number;
}

export interface NativeKeepRule {
  pattern: string;
  rule: "asStored" | "bits" | "atLeast";
  bits: number;
}

/** What shapes the result of a compression. */
export interface NativeForm {
  target: NativeTarget;
  keep?: NativeKeepRule[];
  forms?: "factored" | "tables" | "codes" | "mixed";
  sensitivity?: "assumed" | "measured";
  /** Bits of a code; a head of 0 is as the embeddings. */
  ends?: { embeddings: number; lmHead: number };
}

export interface NativeStageTime {
  name: string;
  ms: number;
}

export interface NativeCompressPlan {
  tensors: {
    name: string;
    format: string;
    part: "body" | "embeddings" | "lmHead" | "norms" | "header";
    rows: number;
    cols: number;
    bytes: number;
    bitsPerWeight: number;
    predictedError: number;
  }[];
  bitsPerWeightBody: number;
  bitsPerWeightFile: number;
  bytes: number;
  bodyBytes: number;
  memoryBytes: number;
  contextLength: number;
  costs: {
    effort: "fast" | "balanced" | "max";
    ms: number;
    peakBytes: number;
    privateBytes: number;
    memory: {
      original: number;
      result: number;
      process: number;
      threads: number;
      tokenizer: number;
      embeddings: number;
      text: number;
      stages: { name: string; bytes: number }[];
    };
    stages: NativeStageTime[];
  }[];
  gemmGflops: number;
}

export interface NativeCompressPlanRequest extends NativeForm {
  source: string;
  threads: number;
  tokenizerBytes: number;
  calibration: Record<"fast" | "balanced" | "max", { windows: number; tokens: number }>;
}

export interface NativeCompressRequest extends NativeForm {
  source: string;
  out: string;
  calibration: Int32Array[];
  effort: "fast" | "balanced" | "max";
  seed: bigint;
  threads: number;
  state: string;
  stages?: NativeStages;
  memoryBudget?: number;
  onInsufficientMemory?: "throw" | "ignore";
  tokenizerBytes?: number;
}

export interface NativeCompressResult {
  bitsPerWeightBody: number;
  bitsPerWeightFile: number;
  bytes: number;
  linears: {
    name: string;
    format: string;
    rows: number;
    cols: number;
    bytes: number;
    bitsPerWeight: number;
    weightError: number;
    outputError: number;
  }[];
  plan: NativeCompressPlan;
  wallMs: number;
  stages: NativeStageTime[];
  resumedBlocks: number;
  /** The last so many windows of the calibration were trained on by nobody. */
  heldOutWindows: number;
  tuned: boolean;
}

export interface NativeSynthesizeRequest {
  /** The text of a config.json. */
  config: string;
  out: string;
  bitsPerWeight: number;
  seed: bigint;
}

export interface NativeSynthesizeResult {
  parameters: number;
  bitsPerWeightBody: number;
  bitsPerWeightFile: number;
  bytes: number;
}

export interface NativeAddon {
  readonly version: string;
  loadModel(
    request: NativeLoadRequest,
    onProgress: (event: NativeProgress) => void,
  ): NativeJob<NativeModel>;
  evaluate(
    request: NativeEvaluateRequest,
    onProgress: (event: NativeProgress) => void,
  ): NativeJob<NativeEvaluateResult>;
  compress(
    request: NativeCompressRequest,
    onProgress: (event: NativeProgress) => void,
  ): NativeJob<NativeCompressResult>;
  synthesize(
    request: NativeSynthesizeRequest,
    onProgress: (event: NativeProgress) => void,
  ): NativeJob<NativeSynthesizeResult>;
  /** Bytes a second that so many threads read; 0: as a model gets. */
  readBandwidth(threads: number): NativeJob<number>;
  /** The most bytes this process ever had resident. */
  peakMemory(): number;
  planCompress(
    request: NativeCompressPlanRequest,
    onProgress: (event: NativeProgress) => void,
  ): NativeJob<NativeCompressPlan>;
  inspect(path: string): Promise<NativeInspection>;
  estimateMemory(request: NativeMemoryRequest): Promise<NativeMemoryEstimate>;
  systemMemory(): NativeSystemMemory;
  doctor(): Promise<NativeDoctorReport>;
  unpackTensor(
    path: string,
    name: string,
  ): Promise<{ rows: number; cols: number; values: Float32Array }>;
}

let loaded: NativeAddon | undefined;

/**
 * The addon, loaded on first use.
 * @throws ModelError NO_NATIVE_BINARY, which lists what was looked for and says how to build.
 */
export function nativeAddon(): NativeAddon {
  // Who built one means it: a prebuilt one in a clone is whatever was shipped last.
  loaded ??= loadAddon([
    join(packageRoot, "build", "Release", "subbit.node"),
    join(packageRoot, "prebuilds", `${process.platform}-${process.arch}`, "subbit.node"),
  ]);
  return loaded;
}

/** Puts another addon in place of the real one, or takes it back. @internal For tests. */
export function injectAddon(addon: NativeAddon | undefined): void {
  loaded = addon;
}

/** Loads the first of `candidates` that exists and loads. @internal */
export function loadAddon(candidates: readonly string[]): NativeAddon {
  const require = createRequire(import.meta.url);
  const tried: string[] = [];
  let cause: unknown;
  for (const file of candidates) {
    if (!existsSync(file)) {
      tried.push(`${file}: not there`);
      continue;
    }
    try {
      return require(file) as NativeAddon;
    } catch (error) {
      cause = error;
      tried.push(`${file}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  const build = `run "npm run build" in ${packageRoot} (it needs a C++20 compiler)`;
  throw new ModelError(
    "NO_NATIVE_BINARY",
    `There is no native binary of subbit for ${process.platform}-${process.arch}.\n` +
      `Looked for:\n  ${tried.join("\n  ")}\nTo build it, ${build}.`,
    { details: { expected: candidates.join(", "), actual: tried.join("; "), build }, cause },
  );
}
