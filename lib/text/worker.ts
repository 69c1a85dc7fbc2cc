/**
 * The thread on which a tokenizer is read, built and run: building takes 0.3 s and long texts take
 * seconds, and neither may hold up the event loop of whoever uses the model. Started by
 * `lib/text.ts`; both sides speak in the messages below.
 */
import { readFile } from "node:fs/promises";
import { parentPort, workerData } from "node:worker_threads";

import { type ErrorCode, type ErrorDetails, fromFileSystem, fromNative } from "../errors.js";
import { llama2cTokenizer } from "../llama2c.js";
import { parseObject, type TokenizerFiles } from "../source.js";
import type { PieceTable } from "./decoder.js";
import { Encoder } from "./encoder.js";
import { cacheKey, readCached, writeCached } from "./id-cache.js";

export interface WorkerSetup {
  files: TokenizerFiles;
  cacheDir: string;
}

export type Request =
  | { kind: "encode"; text: string; isCached: boolean }
  | { kind: "describe" }
  | { kind: "json" };

/** What a tokenizer is, apart from encoding. */
export interface Description {
  table: PieceTable;
  addsBos: boolean;
}

export interface Responses {
  encode: Int32Array;
  describe: Description;
  /** The tokenizer.json, where the model has none and it was made from another file. */
  json: string;
}

export type Reply =
  | { id: number; value: Responses[keyof Responses] }
  | { id: number; error: { code: ErrorCode; message: string; details: ErrorDetails } };

interface Contents {
  file: string;
  tokenizer: Buffer;
  config: Buffer | undefined;
}

async function read(file: string): Promise<Buffer> {
  return await readFile(file).catch((error: unknown) => {
    throw fromFileSystem(error, file, "read the tokenizer");
  });
}

async function readContents(files: TokenizerFiles): Promise<Contents> {
  const config = files.kind === "huggingface" ? files.config : undefined;
  return {
    file: files.tokenizer,
    tokenizer: await read(files.tokenizer),
    config: config === undefined ? undefined : await read(config),
  };
}

function tokenizerJson(files: TokenizerFiles, { file, tokenizer }: Contents) {
  return files.kind === "llama2c"
    ? (llama2cTokenizer(file, tokenizer, files.vocabSize) as Record<string, unknown>)
    : parseObject(tokenizer.toString("utf8"), file);
}

/** The tokenizer, each part made when it is first needed. */
class TextWork {
  readonly #setup: WorkerSetup;
  #contents: Promise<Contents> | undefined;
  #encoder: Promise<Encoder> | undefined;

  constructor(setup: WorkerSetup) {
    this.#setup = setup;
  }

  answer(request: Request): Promise<Responses[keyof Responses]> {
    if (request.kind === "encode") return this.#encode(request);
    return request.kind === "describe" ? this.#describe() : this.#json();
  }

  #read(): Promise<Contents> {
    this.#contents ??= readContents(this.#setup.files);
    return this.#contents;
  }

  #build(): Promise<Encoder> {
    this.#encoder ??= this.#read().then((contents) => {
      const { file, config } = contents;
      const settings = config ? parseObject(config.toString("utf8"), "tokenizer_config.json") : {};
      return new Encoder(tokenizerJson(this.#setup.files, contents), settings, file);
    });
    return this.#encoder;
  }

  async #encode({ text, isCached }: { text: string; isCached: boolean }): Promise<Int32Array> {
    if (!isCached) return (await this.#build()).encode(text);
    const { tokenizer, config } = await this.#read();
    const key = cacheKey(text, config ? [tokenizer, config] : [tokenizer]);
    const kept = await readCached(this.#setup.cacheDir, key);
    if (kept) return kept;
    const ids = (await this.#build()).encode(text);
    await writeCached(this.#setup.cacheDir, key, ids);
    return ids;
  }

  async #describe(): Promise<Description> {
    const encoder = await this.#build();
    return { table: encoder.pieceTable(), addsBos: encoder.addsBos };
  }

  async #json(): Promise<string> {
    return JSON.stringify(tokenizerJson(this.#setup.files, await this.#read()));
  }
}

function buffersOf(value: Responses[keyof Responses]): ArrayBuffer[] {
  if (value instanceof Int32Array) return [value.buffer as ArrayBuffer];
  if (typeof value === "string") return [];
  const { kinds, offsets, bytes } = value.table;
  return [kinds.buffer, offsets.buffer, bytes.buffer] as ArrayBuffer[];
}

if (parentPort) {
  const port = parentPort;
  const work = new TextWork(workerData as WorkerSetup);
  port.on("message", ({ id, request }: { id: number; request: Request }) => {
    work.answer(request).then(
      (value) => port.postMessage({ id, value } satisfies Reply, buffersOf(value)),
      (failure: unknown) => {
        const { code, message, details } = fromNative(failure);
        port.postMessage({ id, error: { code, message, details } } satisfies Reply);
      },
    );
  });
}
