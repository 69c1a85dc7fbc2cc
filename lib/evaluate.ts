/**
 * How well a model predicts a text, and how near it is to another model on it. The text is
 * tokenized whole and cut into windows of `context - 1` tokens, each behind the start token; every
 * token but the start token is predicted.
 */
import { readText } from "./calibration.js";
import { invalidOption } from "./check.js";
import { runJob } from "./job.js";
import { nativeAddon } from "./native.js";
import { type EvaluateOptions, resolveEvaluate } from "./options.js";
import { type ModelSource, requireBos, resolveSource } from "./source.js";
import { Tokenizer } from "./text.js";
import { leadingWindows } from "./windows.js";

export interface Evaluation {
  perplexity: number;
  /** Predictions that were made. */
  tokens: number;
  windows: number;
  /** Only where a teacher was named. */
  teacher?: {
    perplexity: number;
    /** Kullback-Leibler divergence from the teacher, nats: mean and 99th percentile. */
    klMean: number;
    klP99: number;
    /** How often both find the same token likeliest, 0 to 1. */
    top1Agreement: number;
  };
}

/** Evaluates a model on a text. @throws ModelError; or the reason of `options.signal` */
export async function evaluate(
  source: string | ModelSource,
  options: EvaluateOptions,
): Promise<Evaluation> {
  const { text, file, signal, onProgress, threads, context, ...rest } = resolveEvaluate(options);
  signal?.throwIfAborted();
  const model = await resolveSource(source);
  const bos = requireBos(model);
  const tokenizer = new Tokenizer(model.tokenizerFiles, rest);
  let ids: Int32Array;
  try {
    onProgress?.({ phase: "tokenize", loaded: 0 });
    ids = await tokenizer.encode(text ?? (await readText(file ?? "")), { cache: true, signal });
  } finally {
    await tokenizer.close();
  }
  const windows = leadingWindows(ids, { bos, context, limit: rest.windows });
  if (windows.length === 0) {
    throw invalidOption("the text", `${context - 1} tokens or longer`, `${ids.length} tokens`);
  }
  const teacherPath = rest.teacher === undefined ? "" : (await resolveSource(rest.teacher)).path;
  const request = { path: model.path, teacherPath, windows, threads, unpackToFloat: false };
  const result = await runJob((report) => nativeAddon().evaluate(request, report), {
    signal,
    onProgress,
  });
  return { ...result, windows: windows.length };
}
