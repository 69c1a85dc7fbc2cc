/**
 * The tokens on which a compression measures activations: windows of a given text, or, where there
 * is none, of text that the model itself writes from its start token at temperature 1. Such text is
 * distributed as the model believes text to be, which is near what it was trained on; text of the
 * later use is better still.
 */
import { readFile } from "node:fs/promises";

import { invalidOption } from "./check.js";
import { fromFileSystem, fromNative, ModelError } from "./errors.js";
import { type ProgressListener, runJob } from "./job.js";
import { type NativeModel, nativeAddon } from "./native.js";
import {
  type Calibration,
  calibrationContext,
  calibrationTokens,
  type Effort,
  generatedCalibrationTokens,
} from "./options.js";
import { type ResolvedSource, requireBos } from "./source.js";
import type { Tokenizer } from "./text.js";
import { interleaved, shareTokens, spreadWindows, thinned } from "./windows.js";

/** What reading text needs. */
export interface TextRequest {
  source: ResolvedSource;
  tokenizer: Tokenizer;
  signal?: AbortSignal;
  onProgress?: ProgressListener;
}

export interface CalibrationRequest extends TextRequest {
  calibration: Calibration | undefined;
  effort: Effort;
  seed: number;
  threads: number;
  signal: AbortSignal;
  onProgress: ProgressListener;
}

/** Windows of token ids, each behind the start token. */
export async function calibrationWindows(request: CalibrationRequest): Promise<Int32Array[]> {
  const { calibration, effort } = request;
  const shape = windowShape(request);
  if (!calibration) return await writtenWindows(request, shape);
  const tokens = tokensAsked(calibration) ?? calibrationTokens[effort];
  const windows = windowsOf(await textIds(request, calibration), { ...shape, tokens });
  if (windows.length === 0) throw invalidOption("calibration", "text of some tokens", "none");
  return windows;
}

/** How much calibration text each effort would use, without letting the model write any. */
export async function sizesByEffort(
  request: TextRequest & Pick<CalibrationRequest, "calibration">,
): Promise<Record<Effort, { windows: number; tokens: number }>> {
  const { calibration } = request;
  const shape = windowShape(request);
  const texts = calibration && (await textIds(request, calibration));
  const sizeOf = (effort: Effort) => {
    if (!texts) {
      const tokens = generatedCalibrationTokens[effort];
      return { windows: Math.ceil(tokens / shape.context), tokens };
    }
    const tokens = tokensAsked(calibration) ?? calibrationTokens[effort];
    const windows = windowsOf(texts, { ...shape, tokens });
    return {
      windows: windows.length,
      tokens: windows.reduce((sum, window) => sum + window.length, 0),
    };
  };
  return { fast: sizeOf("fast"), balanced: sizeOf("balanced"), max: sizeOf("max") };
}

function tokensAsked(calibration: Calibration): number | undefined {
  return "tokens" in calibration ? calibration.tokens : undefined;
}

function windowShape({ source, calibration }: Pick<CalibrationRequest, "source" | "calibration">): {
  bos: number;
  context: number;
} {
  const bos = requireBos(source);
  const asked = calibration && "file" in calibration ? calibration.context : undefined;
  const trained = source.trainedContextLength ?? calibrationContext;
  const context = Math.min(trained, asked ?? calibrationContext);
  if (context < 2) throw invalidOption("the model", "trained with a context of 2 or more", context);
  return { bos, context };
}

async function textIds(
  { tokenizer, signal, onProgress }: TextRequest,
  calibration: Calibration,
): Promise<Int32Array[]> {
  const texts: Int32Array[] = [];
  for await (const { text, done, total } of textsOf(calibration)) {
    onProgress?.({ phase: "tokenize", loaded: done, total, fraction: done / total });
    texts.push(await tokenizer.encode(text, { cache: true, signal }));
  }
  return texts;
}

function windowsOf(
  texts: readonly Int32Array[],
  options: { bos: number; context: number; tokens: number },
): Int32Array[] {
  const lengths = texts.map((ids) => ids.length);
  const lists = shareTokens(lengths, options.tokens).map((tokens, i) =>
    spreadWindows(texts[i] ?? new Int32Array(), { ...options, tokens }),
  );
  // A text gives one window or more, however small its share: many texts give too many.
  return thinned(interleaved(lists), options.tokens);
}

async function* textsOf(calibration: Calibration) {
  if (Array.isArray(calibration)) {
    const total = calibration.length;
    for (const [done, text] of calibration.entries()) yield { text, done, total };
    return;
  }
  const files = [calibration.file].flat();
  for (const [done, file] of files.entries())
    yield { text: await readText(file), done, total: files.length };
}

/** The text of a UTF-8 file. */
export async function readText(file: string): Promise<string> {
  let bytes: Buffer;
  try {
    bytes = await readFile(file);
  } catch (error) {
    throw fromFileSystem(error, file, "read the text");
  }
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new ModelError("CORRUPT_FILE", `${file} is not UTF-8 text`, {
      details: { file, expected: "UTF-8" },
      cause,
    });
  }
}

async function writtenWindows(
  { source, effort, seed, threads, signal, onProgress }: CalibrationRequest,
  { bos, context }: { bos: number; context: number },
): Promise<Int32Array[]> {
  const native = await runJob(
    (report) =>
      nativeAddon().loadModel(
        {
          path: source.path,
          threads,
          contextLength: context,
          kvCache: "f16",
          unpackToFloat: false,
          // The compressor that follows needs more than this, and says so itself.
          onInsufficientMemory: "ignore",
        },
        report,
      ),
    { signal },
  );
  try {
    const total = generatedCalibrationTokens[effort];
    const windows: Int32Array[] = [];
    let written = 0;
    for (let story = 0; written < total; story++) {
      onProgress({ phase: "sample", loaded: written, total, fraction: written / total });
      const seeds = { story, seed };
      const window = await writeWindow(native, { bos, context, signal, ...seeds });
      windows.push(window);
      written += window.length;
    }
    onProgress({ phase: "sample", loaded: total, total, fraction: 1 });
    return windows;
  } finally {
    await native.dispose().catch((error: unknown) => {
      throw fromNative(error);
    });
  }
}

interface Writing {
  bos: number;
  context: number;
  signal: AbortSignal;
  story: number;
  seed: number;
}

/** One text from the start token on, until the model ends it or the window is full. */
async function writeWindow(
  native: NativeModel,
  { bos, context, signal, story, seed }: Writing,
): Promise<Int32Array> {
  const tokens = [bos];
  await runJob(
    () =>
      native.generate(
        {
          prompt: Int32Array.of(bos),
          maxTokens: context - 1,
          stopTokens: Int32Array.from(native.facts.eosTokenIds),
          temperature: 1,
          topK: 0,
          topP: 1,
          minP: 0,
          repetitionPenalty: 1,
          presencePenalty: 0,
          frequencyPenalty: 0,
          logitBias: [],
          // Distinct for every text of one seed, and far from the texts of neighbouring seeds.
          seed: (BigInt(seed) << 20n) + BigInt(story),
        },
        (token) => {
          if (tokens.length < context) tokens.push(token);
        },
      ),
    { signal },
  );
  return Int32Array.from(tokens);
}
