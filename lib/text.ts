/**
 * The tokenizer of a model: text to token ids and back. The work is done on a thread of its own
 * (`text/worker.ts`), which starts with the first call, so that neither building the tokenizer nor
 * a long text holds up the event loop; only the streaming decoder, which copies bytes, runs here.
 */
import { existsSync } from "node:fs";
import { Worker } from "node:worker_threads";

import envPaths from "env-paths";

import { fromNative, ModelError } from "./errors.js";
import type { TokenizerFiles } from "./source.js";
import { decodeAll, StreamingDecoder } from "./text/decoder.js";
import type { Description, Reply, Request, Responses, WorkerSetup } from "./text/worker.js";

export interface EncodeOptions {
  /** Put the model's start token in front. Default false. */
  bos?: boolean;
  /** Keep the ids on disk for the next run: for long texts that come again. Default false. */
  cache?: boolean;
  /** Stops waiting for the ids. */
  signal?: AbortSignal;
}

interface Pending {
  resolve(value: Responses[keyof Responses]): void;
  reject(reason: unknown): void;
}

/** The tokenizer of one model. Its thread starts on first use and ends with `close()`. */
export class Tokenizer {
  readonly #setup: WorkerSetup;
  readonly #bosTokenId: number | undefined;
  readonly #pending = new Map<number, Pending>();
  #worker: Worker | undefined;
  #description: Promise<Description> | undefined;
  #lastId = 0;
  #isClosed = false;

  /** @internal */
  constructor(files: TokenizerFiles, options: { bosTokenId?: number; cacheDir?: string } = {}) {
    this.#setup = {
      files,
      cacheDir: options.cacheDir ?? envPaths("subbit", { suffix: "" }).cache,
    };
    this.#bosTokenId = options.bosTokenId;
  }

  /**
   * The token ids of `text`. Marks such as `</s>` in the text become the tokens they name.
   * @throws ModelError FILE_ERROR or CORRUPT_FILE where the model's tokenizer cannot be used.
   */
  async encode(
    text: string,
    { bos = false, cache = false, signal }: EncodeOptions = {},
  ): Promise<Int32Array> {
    const ids = await this.#ask<"encode">({ kind: "encode", text, isCached: cache }, signal);
    return bos ? this.withBos(ids) : ids;
  }

  /** How many tokens `text` is, without a start token. */
  async count(text: string): Promise<number> {
    return (await this.encode(text)).length;
  }

  /** The text of `ids`, start and end marks left out; ids that no token has become U+FFFD. */
  async decode(ids: Iterable<number>): Promise<string> {
    return decodeAll((await this.#describe()).table, ids, { continuation: false });
  }

  /**
   * A decoder that is fed token by token and never gives out half a character.
   * `continuation`: the text goes on after other text, so a leading space is kept.
   */
  async stream(options: { continuation?: boolean } = {}): Promise<StreamingDecoder> {
    const { table } = await this.#describe();
    return new StreamingDecoder(table, { continuation: options.continuation ?? false });
  }

  /** The ids of a prompt: with the start token where this tokenizer is used with one. @internal */
  async encodePrompt(text: string): Promise<Int32Array> {
    const [ids, { addsBos }] = await Promise.all([this.encode(text), this.#describe()]);
    const isThere = ids.length > 0 && ids[0] === this.#bosTokenId;
    return addsBos && this.#bosTokenId !== undefined && !isThere ? this.withBos(ids) : ids;
  }

  /** `ids` behind the start token, if the model has one. @internal */
  withBos(ids: Int32Array): Int32Array {
    if (this.#bosTokenId === undefined) return ids;
    const all = new Int32Array(ids.length + 1);
    all[0] = this.#bosTokenId;
    all.set(ids, 1);
    return all;
  }

  /** The tokenizer as the text of a tokenizer.json. @internal */
  json(): Promise<string> {
    return this.#ask<"json">({ kind: "json" });
  }

  /** Ends the thread, if nobody waits for it; the next call starts it again. @internal */
  async rest(): Promise<void> {
    if (this.#pending.size > 0) return;
    const worker = this.#worker;
    this.#worker = undefined;
    this.#description = undefined;
    await worker?.terminate();
  }

  /** Ends the thread; calls that wait, and later ones, fail with DISPOSED. @internal */
  async close(): Promise<void> {
    this.#isClosed = true;
    const worker = this.#worker;
    this.#worker = undefined;
    this.#failAll(disposed());
    await worker?.terminate();
  }

  #describe(): Promise<Description> {
    this.#description ??= this.#ask<"describe">({ kind: "describe" });
    return this.#description;
  }

  async #ask<K extends Request["kind"]>(
    request: Request & { kind: K },
    signal?: AbortSignal,
  ): Promise<Responses[K]> {
    signal?.throwIfAborted();
    if (this.#isClosed) throw disposed();
    const worker = this.#start();
    const id = ++this.#lastId;
    const abort = () => this.#settle(id, ({ reject }) => reject(signal?.reason));
    signal?.addEventListener("abort", abort, { once: true });
    try {
      return await new Promise<Responses[K]>((resolve, reject) => {
        this.#pending.set(id, { resolve: resolve as Pending["resolve"], reject });
        // The thread keeps the process alive only while somebody waits for it.
        worker.ref();
        worker.postMessage({ id, request });
      });
    } finally {
      signal?.removeEventListener("abort", abort);
    }
  }

  #start(): Worker {
    if (this.#worker) return this.#worker;
    const worker = new Worker(workerUrl(), { workerData: this.#setup, execArgv: [] });
    worker.on("message", (reply: Reply) => this.#receive(reply));
    worker.on("error", (error) => {
      if (this.#worker === worker) this.#worker = undefined;
      this.#failAll(fromNative(error));
    });
    worker.on("exit", () => {
      if (this.#worker === worker) this.#worker = undefined;
      this.#failAll(new ModelError("INTERNAL", "The tokenizer's thread ended unexpectedly"));
    });
    this.#worker = worker;
    return worker;
  }

  #receive(reply: Reply): void {
    this.#settle(reply.id, ({ resolve, reject }) => {
      if ("value" in reply) resolve(reply.value);
      else reject(new ModelError(reply.error.code, reply.error.message, reply.error));
    });
  }

  #settle(id: number, settle: (pending: Pending) => void): void {
    const pending = this.#pending.get(id);
    this.#pending.delete(id);
    if (this.#pending.size === 0) this.#worker?.unref();
    if (pending) settle(pending);
  }

  #failAll(error: ModelError): void {
    for (const { reject } of this.#pending.values()) reject(error);
    this.#pending.clear();
  }
}

function disposed(): ModelError {
  return new ModelError("DISPOSED", "The model of this tokenizer has been disposed");
}

/** The compiled worker: beside this file, or, where the tests run the sources, in `dist/`. */
function workerUrl(): URL {
  const beside = new URL("./text/worker.js", import.meta.url);
  return existsSync(beside) ? beside : new URL("../dist/text/worker.js", import.meta.url);
}
