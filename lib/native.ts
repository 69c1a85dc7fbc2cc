/**
 * The typed face of the native addon, and the only file that loads the binary. Everything here is
 * token ids, numbers and paths; text never crosses this line.
 */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { ModelError } from "./errors.js";

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
  kvCache: "f16" | "f32";
  unpackToFloat: boolean;
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
  loadMs: number;
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
}

export interface NativeModel {
  readonly facts: NativeModelFacts;
  generate(
    request: NativeGenerateRequest,
    onToken: (token: number) => void,
  ): NativeJob<NativeGenerateResult>;
  score(tokens: Int32Array): NativeJob<{ logprobs: Float32Array }>;
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

export interface NativeCompressRequest {
  source: string;
  out: string;
  bitsPerWeight: number;
  calibration: Int32Array[];
  effort: "fast" | "balanced" | "max";
  seed: bigint;
  threads: number;
  state: string;
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
  wallMs: number;
  resumedBlocks: number;
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
  inspect(path: string): Promise<NativeInspection>;
  unpackTensor(
    path: string,
    name: string,
  ): Promise<{ rows: number; cols: number; values: Float32Array }>;
}
