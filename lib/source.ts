/**
 * What a model source is on disk: a Hugging Face directory, or a llama2.c checkpoint with its
 * tokenizer.bin beside it. Finds the tokenizer's files and reads the few facts that text work needs
 * before any model is loaded. The weights are the engine's business, and so is the full check of
 * config.json.
 */
import { open, readFile, stat } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";

import { checkKeys, checkText, invalidOption } from "./check.js";
import { fromFileSystem, ModelError } from "./errors.js";

/** Where a model is: a directory in the Hugging Face layout, or a llama2.c checkpoint. */
export type ModelSource = { path: string };

/** Where a tokenizer comes from. */
export type TokenizerFiles =
  | { kind: "huggingface"; tokenizer: string; config: string | undefined }
  | { kind: "llama2c"; tokenizer: string; vocabSize: number };

export interface ResolvedSource {
  /** What the engine is given: the directory or the checkpoint. */
  path: string;
  tokenizerFiles: TokenizerFiles;
  /** Files that a copy of the model needs beside its weights and config.json. */
  companions: string[];
  /** The token that starts every sequence, if the model has one. */
  bosTokenId: number | undefined;
  /** Tokens the model was trained with, where the files say. */
  trainedContextLength: number | undefined;
}

/** The path of a source as the user wrote it. */
export function pathOf(source: string | ModelSource): string {
  if (typeof source === "string") return checkText("the model", source);
  checkKeys("the model", source, ["path"]);
  return checkText("the model's path", source.path);
}

/**
 * Looks at a source.
 * @throws ModelError FILE_ERROR where nothing is there, CORRUPT_FILE where config.json is no JSON.
 */
export async function resolveSource(source: string | ModelSource): Promise<ResolvedSource> {
  const path = resolve(pathOf(source));
  const facts = await stat(path).catch((error: unknown) => {
    throw fromFileSystem(error, path, "read the model");
  });
  return facts.isDirectory() ? resolveDirectory(path) : resolveCheckpoint(path);
}

async function resolveDirectory(path: string): Promise<ResolvedSource> {
  const config = await readJson(join(path, "config.json"), "read the model's config");
  const present = async (name: string) => {
    const file = join(path, name);
    return (await stat(file).catch(() => undefined))?.isFile() ? file : undefined;
  };
  const [tokenizer, tokenizerConfig, generationConfig] = await Promise.all(
    ["tokenizer.json", "tokenizer_config.json", "generation_config.json"].map(present),
  );
  return {
    path,
    tokenizerFiles: {
      kind: "huggingface",
      tokenizer: tokenizer ?? join(path, "tokenizer.json"),
      config: tokenizerConfig,
    },
    companions: [tokenizer, tokenizerConfig, generationConfig].filter((file) => file !== undefined),
    bosTokenId: firstId(config["bos_token_id"]),
    trainedContextLength: firstId(config["max_position_embeddings"]),
  };
}

// The seven int32 at the head of a llama2.c checkpoint: dim, hidden_dim, n_layers, n_heads,
// n_kv_heads, vocab_size (negative: the head is not tied), seq_len.
const headerBytes = 28;
const vocabOffset = 20;
const contextOffset = 24;
// Fixed by llama2.c: 0 is unknown, 1 starts a sequence, 2 ends it.
const llama2cBos = 1;

async function resolveCheckpoint(path: string): Promise<ResolvedSource> {
  const header = await readHeader(path);
  const vocabSize = Math.abs(header.readInt32LE(vocabOffset));
  const trainedContextLength = header.readInt32LE(contextOffset);
  if (vocabSize < 3 || trainedContextLength < 1) {
    throw new ModelError(
      "CORRUPT_FILE",
      `${path} is neither a model directory nor a llama2.c checkpoint`,
      {
        details: {
          file: path,
          expected: "a vocabulary of 3 or more and a context of 1 or more",
          actual: `${vocabSize} and ${trainedContextLength}`,
        },
      },
    );
  }
  return {
    path,
    tokenizerFiles: { kind: "llama2c", tokenizer: join(dirname(path), "tokenizer.bin"), vocabSize },
    companions: [],
    bosTokenId: llama2cBos,
    trainedContextLength,
  };
}

async function readHeader(path: string): Promise<Buffer> {
  let bytesRead: number;
  const header = Buffer.alloc(headerBytes);
  try {
    const file = await open(path);
    try {
      ({ bytesRead } = await file.read(header, 0, headerBytes, 0));
    } finally {
      await file.close();
    }
  } catch (error) {
    throw fromFileSystem(error, path, "read");
  }
  if (bytesRead < headerBytes) {
    throw new ModelError("CORRUPT_FILE", `${path} is too short for a llama2.c checkpoint`, {
      details: { file: path, expected: `${headerBytes} bytes or more`, actual: `${bytesRead}` },
    });
  }
  return header;
}

/** A JSON file that must hold an object. */
export async function readJson(file: string, doing: string): Promise<Record<string, unknown>> {
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch (error) {
    throw fromFileSystem(error, file, doing);
  }
  return parseObject(text, file);
}

/** `text` of `file` as a JSON object. @throws ModelError CORRUPT_FILE */
export function parseObject(text: string, file: string): Record<string, unknown> {
  let value: unknown;
  let cause: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    cause = error;
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value)) {
    return value as Record<string, unknown>;
  }
  const actual = cause instanceof Error ? cause.message : "another value";
  throw new ModelError("CORRUPT_FILE", `${file} does not hold a JSON object: ${actual}`, {
    details: { file, expected: "a JSON object", actual },
    cause,
  });
}

/** The start token of a source that must have one, because windows of text begin with it. */
export function requireBos({ path, bosTokenId }: ResolvedSource): number {
  if (bosTokenId !== undefined) return bosTokenId;
  throw invalidOption("the model", "one with a bos_token_id in its config.json", path);
}

function firstId(value: unknown): number | undefined {
  const first: unknown = Array.isArray(value) ? value[0] : value;
  return typeof first === "number" && Number.isSafeInteger(first) && first >= 0 ? first : undefined;
}
