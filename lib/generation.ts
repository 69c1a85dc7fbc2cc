/**
 * One generation: a stream of chunks and, lazily, a promise of the whole. The work starts when it
 * is first consumed, is abandoned when the consumer leaves the loop, and has exactly one consumer.
 *
 * Native tokens go through a queue, the streaming decoder and the stop finder, in that order; each
 * holds back what is not yet certain.
 */
import { ReadableStream } from "node:stream/web";

import { invalidOption } from "./check.js";
import { fromNative, ModelError } from "./errors.js";
import type { NativeGenerateResult, NativeJob, NativeModel } from "./native.js";
import type { ResolvedGenerate } from "./options.js";
import type { StreamingDecoder } from "./text/decoder.js";
import { StopFinder } from "./text/stop.js";
import type { Tokenizer } from "./text.js";
import { TokenQueue } from "./token-queue.js";

/**
 * Why a generation ended: the model or a stop string ended it, `maxTokens` was reached, the context
 * is full, or it was cancelled.
 */
export type FinishReason = "stop" | "length" | "context" | "cancelled";

export interface Usage {
  /** Tokens of the prompt, the start token included. */
  promptTokens: number;
  /** How many of them were still in the KV cache. */
  cachedTokens: number;
  generatedTokens: number;
}

export interface Timing {
  /** From the start of consumption to the first token, tokenizing included. */
  ttftMs: number;
  /** Prompt tokens a second, those found in the cache left out. */
  prefillTps: number;
  /** New tokens a second. */
  decodeTps: number;
  totalMs: number;
}

export type Chunk =
  | { type: "text"; text: string; tokens: number[] }
  | { type: "finish"; finishReason: FinishReason; usage: Usage; timing: Timing };

export interface GenerationResult {
  text: string;
  tokens: number[];
  finishReason: FinishReason;
  usage: Usage;
  timing: Timing;
}

/** What a generation needs of its model. */
export interface GenerationContext {
  native: NativeModel;
  tokenizer: Tokenizer;
  /** Told when the work starts and when it has ended. */
  onStart(generation: Generation): void;
  onEnd(generation: Generation): void;
}

type Ending = "signal" | "cancel" | "dispose";

/**
 * What `model.generate()` returns. Iterate it for chunks, iterate `text` for strings, or await it
 * for the result: one of these, once.
 */
export class Generation implements AsyncIterable<Chunk>, PromiseLike<GenerationResult> {
  readonly #context: GenerationContext;
  readonly #input: string;
  readonly #options: ResolvedGenerate;
  #isConsumed = false;
  #result: Promise<GenerationResult> | undefined;
  /** Who ended the generation early; the first one counts. */
  #ending: Ending | undefined;
  #job: NativeJob<NativeGenerateResult> | undefined;
  #onEnding: (() => void) | undefined;

  /** @internal */
  constructor(context: GenerationContext, input: string, options: ResolvedGenerate) {
    this.#context = context;
    this.#input = input;
    this.#options = options;
  }

  [Symbol.asyncIterator](): AsyncIterator<Chunk, void> {
    if (this.#isConsumed) {
      throw invalidOption("A generation", "consumed once", "consumed again");
    }
    this.#isConsumed = true;
    const chunks = this.#chunks();
    return {
      next: () => chunks.next(),
      // A generator queues return() behind a next() that is still waiting, so wake that up first.
      return: async () => {
        this.cancel();
        await chunks.return();
        return { done: true, value: undefined };
      },
    };
  }

  /** The text alone, in the parts in which it becomes certain. */
  get text(): AsyncIterable<string> {
    const generation = this;
    return {
      async *[Symbol.asyncIterator]() {
        for await (const chunk of generation) if (chunk.type === "text") yield chunk.text;
      },
    };
  }

  /** Starts the work, if nobody has, and waits for all of it. */
  // biome-ignore lint/suspicious/noThenProperty: awaiting it is part of the interface
  then<A = GenerationResult, B = never>(
    onFulfilled?: ((result: GenerationResult) => A | PromiseLike<A>) | null,
    onRejected?: ((reason: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    this.#result ??= this.#collect();
    return this.#result.then(onFulfilled, onRejected);
  }

  /** Ends the generation; whoever consumes it gets what there is, and the reason `"cancelled"`. */
  cancel(): void {
    this.#endEarly("cancel");
  }

  /** The chunks as a web stream; cancelling it cancels the generation. */
  toReadableStream(): ReadableStream<Chunk> {
    const chunks = this[Symbol.asyncIterator]();
    return new ReadableStream<Chunk>(
      {
        pull: async (controller) => {
          const { done, value } = await chunks.next();
          if (done) controller.close();
          else controller.enqueue(value);
        },
        cancel: async () => {
          await chunks.return?.();
        },
      },
      { highWaterMark: 0 },
    );
  }

  /** Ends it because its model is being disposed. @internal */
  dispose(): void {
    this.#endEarly("dispose");
  }

  #endEarly(ending: Ending): void {
    this.#ending ??= ending;
    this.#job?.abort();
    this.#onEnding?.();
  }

  async #collect(): Promise<GenerationResult> {
    let text = "";
    const tokens: number[] = [];
    for await (const chunk of this) {
      if (chunk.type === "finish") {
        const { finishReason, usage, timing } = chunk;
        return { text, tokens, finishReason, usage, timing };
      }
      text += chunk.text;
      for (const token of chunk.tokens) tokens.push(token);
    }
    throw new ModelError("INTERNAL", "A generation ended without saying why");
  }

  async *#chunks(): AsyncGenerator<Chunk, void> {
    const { signal } = this.#options;
    const abort = () => this.#endEarly("signal");
    this.#context.onStart(this);
    if (signal?.aborted) abort();
    signal?.addEventListener("abort", abort, { once: true });
    const run = new Run(this.#options.stop);
    try {
      const prompt = this.#ending ? undefined : await this.#prompt(run);
      if (prompt && !this.#ending) yield* this.#decode(run, prompt);
      if (this.#ending) this.#throwIfFailed();
      yield run.finish(this.#ending ? "cancelled" : undefined);
    } finally {
      signal?.removeEventListener("abort", abort);
      this.#context.onEnd(this);
    }
  }

  /** The prompt's tokens, or undefined if the generation was ended while they were made. */
  async #prompt(run: Run): Promise<Int32Array | undefined> {
    const { tokenizer } = this.#context;
    const ended = new Promise<undefined>((resolve) => {
      this.#onEnding = () => resolve(undefined);
    });
    const made = Promise.all([
      tokenizer.encodePrompt(this.#input),
      tokenizer.stream({ continuation: this.#input.length > 0 }),
    ]);
    const parts = await Promise.race([made, ended]).catch((error: unknown) => {
      // A tokenizer that was closed under us is no error of its own.
      if (this.#ending) return undefined;
      throw error;
    });
    // Whatever else comes of the race is of no interest.
    made.catch(() => {});
    if (!parts) return undefined;
    const [prompt, decoder] = parts;
    if (prompt.length === 0) throw invalidOption("the prompt", "at least one token", this.#input);
    run.begin(prompt.length, decoder);
    return prompt;
  }

  async *#decode(run: Run, prompt: Int32Array): AsyncGenerator<Chunk, void> {
    const { stop: _, signal: __, onAbort: ___, seed, ...sampling } = this.#options;
    const { native } = this.#context;
    const queue = new TokenQueue();
    const stopTokens = Int32Array.from(native.facts.eosTokenIds);
    const request = { ...sampling, prompt, stopTokens, seed: BigInt(seed) };
    const job = startJob(() => native.generate(request, (token) => queue.push(token)));
    this.#job = job;
    const settled = job.promise.then(
      (result) => {
        run.result = result;
        queue.end();
      },
      (error: unknown) => {
        run.failure = { error };
        queue.end();
      },
    );
    try {
      for (;;) {
        const tokens = await queue.take();
        if (!tokens || this.#ending) break;
        const chunk = run.add(tokens);
        if (chunk) yield chunk;
        if (run.isStopped) break;
      }
    } finally {
      // The engine's thread is free again once the job has settled; nothing to abort if it has.
      job.abort();
      await settled;
    }
    if (run.failure && !run.isStopped && !this.#ending) throw fromNative(run.failure.error);
    const rest = run.flush();
    if (rest) yield rest;
  }

  #throwIfFailed(): void {
    if (this.#ending === "dispose") {
      throw new ModelError("DISPOSED", "The model was disposed while it was generating");
    }
    if (this.#ending === "signal" && this.#options.onAbort === "throw") {
      throw this.#options.signal?.reason;
    }
  }
}

function startJob<T>(start: () => NativeJob<T>): NativeJob<T> {
  try {
    return start();
  } catch (error) {
    throw fromNative(error);
  }
}

/** The state of one generation under way: from token ids to chunks, with the clock. */
class Run {
  result: NativeGenerateResult | undefined;
  failure: { error: unknown } | undefined;
  readonly #started = performance.now();
  #promptAt = 0;
  #firstAt = 0;
  #lastAt = 0;
  #promptTokens = 0;
  #generatedTokens = 0;
  #decoder: StreamingDecoder | undefined;
  /** Tokens whose text is still held back. */
  #tokens: number[] = [];
  readonly #stop: StopFinder;

  constructor(stops: readonly string[]) {
    this.#stop = new StopFinder(stops);
  }

  /** A stop string has come. */
  get isStopped(): boolean {
    return this.#stop.isFound;
  }

  begin(promptTokens: number, decoder: StreamingDecoder): void {
    this.#promptTokens = promptTokens;
    this.#decoder = decoder;
    this.#promptAt = performance.now();
  }

  /** The chunk that `tokens` make certain, if any. */
  add(tokens: readonly number[]): Chunk | undefined {
    this.#lastAt = performance.now();
    if (this.#generatedTokens === 0) this.#firstAt = this.#lastAt;
    let text = "";
    for (const token of tokens) {
      this.#generatedTokens++;
      this.#tokens.push(token);
      text += this.#stop.push(this.#decoder?.push(token) ?? "");
      if (this.isStopped) break;
    }
    return text ? this.#chunk(text) : undefined;
  }

  /** What was held back at the end. */
  flush(): Chunk | undefined {
    const text = this.#stop.push(this.#decoder?.flush() ?? "") + this.#stop.flush();
    return text || this.#tokens.length > 0 ? this.#chunk(text) : undefined;
  }

  #chunk(text: string): Chunk {
    const tokens = this.#tokens;
    this.#tokens = [];
    return { type: "text", text, tokens };
  }

  finish(reason: "cancelled" | undefined): Chunk {
    const { result } = this;
    const now = performance.now();
    const firstAt = this.#firstAt || now;
    const promptAt = this.#promptAt || now;
    const cachedTokens = result?.cachedTokens ?? 0;
    // Where the engine was stopped early it did not say how long it took: our clock then does.
    const prefillMs = result?.prefillMs ?? firstAt - promptAt;
    const decodeMs = result?.decodeMs ?? Math.max(0, this.#lastAt - firstAt);
    return {
      type: "finish",
      finishReason: reason ?? (this.isStopped ? "stop" : (result?.finishReason ?? "stop")),
      usage: {
        promptTokens: this.#promptTokens,
        cachedTokens,
        generatedTokens: this.#generatedTokens,
      },
      timing: {
        ttftMs: firstAt - this.#started,
        prefillTps: perSecond(this.#promptTokens - cachedTokens, prefillMs),
        decodeTps: perSecond(this.#generatedTokens, decodeMs),
        totalMs: now - this.#started,
      },
    };
  }
}

function perSecond(count: number, milliseconds: number): number {
  return milliseconds > 0 ? (1000 * count) / milliseconds : 0;
}
