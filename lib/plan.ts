/**
 * What a compression will do, settled before the work begins: the form and the bytes of every
 * tensor, and what each effort would cost on this machine. Figures of time, memory and error are
 * predictions; bytes are exact.
 */
import { sizesByEffort } from "./calibration.js";
import { runJob } from "./job.js";
import { tokenizerBytesOf } from "./memory.js";
import { type NativeCompressPlan, nativeAddon } from "./native.js";
import { type Effort, type PlanOptions, resolvePlan } from "./options.js";
import { type ModelSource, resolveSource } from "./source.js";
import { Tokenizer } from "./text.js";

/** A tensor of the compressed model. */
export interface PlannedTensor {
  name: string;
  /** Such as `"factored r=160"`, `"int4"` or `"as stored"`. */
  format: string;
  part: "body" | "embeddings" | "lmHead" | "norms" | "header";
  rows: number;
  cols: number;
  bytes: number;
  bitsPerWeight: number;
  /** Squared error of its outputs over their squared size that a fit alone should leave. */
  predictedError: number;
}

/** What an effort would cost on this machine: predicted. */
export interface PredictedCost {
  effort: Effort;
  ms: number;
  /** The most that the process will hold: what the system will call its peak resident size. */
  peakBytes: number;
  /** Of it, without the mapped files, whose pages the system can take back: what must fit. */
  privateBytes: number;
  memory: CompressMemory;
  stages: { name: string; ms: number }[];
}

/** Where a compression's memory goes, in bytes. Of the stages, one after another, one is held. */
export interface CompressMemory {
  /** Mapped files: of the model it starts from, and what is finished of the new one. */
  original: number;
  result: number;
  process: number;
  threads: number;
  tokenizer: number;
  /** Embeddings and head as they will be written. */
  embeddings: number;
  /** The calibration text's tokens. */
  text: number;
  stages: { name: string; bytes: number }[];
}

export interface CompressionPlan {
  /** Every byte of the weight file. The norms of the blocks are one row. */
  tensors: PlannedTensor[];
  bitsPerWeight: { body: number; file: number };
  /** Of the weight file, and of the decoder blocks in it. */
  bytes: number;
  bodyBytes: number;
  /** Of the file and what running it takes beside it at `contextLength`. */
  memory: { bytes: number; contextLength: number };
  /** Of each effort; of a compression that was run, its own. */
  costs: PredictedCost[];
  /** How fast this machine multiplied matrices, billions of operations a second. */
  gemmGflops: number;
}

/**
 * What `compress()` would make of a model, without making it. Takes as long as tokenizing the
 * calibration text, whose length the cost depends on.
 * @throws ModelError; INVALID_OPTION names the least possible where the target cannot be met
 */
export async function planCompression(
  source: string | ModelSource,
  options: PlanOptions,
): Promise<CompressionPlan> {
  const { calibration, signal, onProgress, cacheDir, ...request } = resolvePlan(options);
  signal?.throwIfAborted();
  const resolved = await resolveSource(source);
  const tokenizer = new Tokenizer(resolved.tokenizerFiles, { cacheDir });
  try {
    const text = { source: resolved, tokenizer, calibration, signal, onProgress };
    const sizes = await sizesByEffort(text);
    const tokenizerBytes = await tokenizerBytesOf(resolved.tokenizerFiles);
    const plan = await runJob(
      (report) =>
        nativeAddon().planCompress(
          { source: resolved.path, ...request, tokenizerBytes, calibration: sizes },
          report,
        ),
      { signal, onProgress },
    );
    return planOf(plan);
  } finally {
    await tokenizer.close();
  }
}

/** The engine's plan in the public shape. @internal */
export function planOf(plan: NativeCompressPlan): CompressionPlan {
  const { bitsPerWeightBody, bitsPerWeightFile, memoryBytes, contextLength, ...rest } = plan;
  return {
    ...rest,
    bitsPerWeight: { body: bitsPerWeightBody, file: bitsPerWeightFile },
    memory: { bytes: memoryBytes, contextLength },
  };
}
