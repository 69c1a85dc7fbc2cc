/**
 * Does anything leak? `npm run soak [-- --cycles 1000 --tokens 110000]`: a thousand times a model
 * is loaded, generates and is disposed; then one session of one model writes what a 7B writes in an
 * hour at 30 tokens a second. Ends with code 1 where resident memory grows by more than a megabyte.
 *
 * What is compared are floors, the least of several looks at the start and at the end, each after
 * garbage is collected and free heap given back. Single looks differ by some megabytes, and none of
 * it is a leak: the tokenizer's thread has a JavaScript heap of its own, which the main thread's
 * `gc()` does not reach and which waits for tens of megabytes of garbage before it collects any (so
 * it is asked to through the inspector); young generations swing between one size and another (so
 * they are held small by flags); and every thread that ends leaves holes in the arena of the C
 * library's heap that it happened to use, of which there are eight a core (so there is one).
 *
 * Needs a built package. Takes three minutes of processor time.
 */
import { spawnSync } from "node:child_process";
import { Session } from "node:inspector";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

const flags = ["--expose-gc", "--min-semi-space-size=1", "--max-semi-space-size=1"];
if (!globalThis.gc) {
  const self = [fileURLToPath(import.meta.url), ...process.argv.slice(2)];
  const env = { ...process.env, MALLOC_ARENA_MAX: "1" };
  const child = spawnSync(process.execPath, [...flags, ...self], { stdio: "inherit", env });
  process.exit(child.status ?? 1);
}

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const dist = (/** @type {string} */ file) => pathToFileURL(join(root, "dist", file)).href;
const { nativeAddon } = await import(dist("native.js"));
const { exampleModel, loadModel } = await import(dist("index.js"));
const megabyte = 1e6;
const { values: options } = parseArgs({
  options: {
    cycles: { type: "string", default: "1000" },
    tokens: { type: "string", default: "110000" },
  },
});
let failures = 0;

/** The JavaScript heaps of other threads, collected and measured through the inspector. */
class OtherHeaps {
  #session = new Session();
  /** @type {Set<string>} */
  #threads = new Set();
  /** @type {Map<number, (result: { usedSize?: number }) => void>} */
  #waiting = new Map();
  #lastId = 0;

  constructor() {
    const session = this.#session;
    session.connect();
    session.on("NodeWorker.attachedToWorker", ({ params }) => this.#threads.add(params.sessionId));
    session.on("NodeWorker.detachedFromWorker", ({ params }) => {
      this.#threads.delete(params.sessionId);
    });
    session.on("NodeWorker.receivedMessageFromWorker", ({ params }) => {
      const { id, result } = JSON.parse(params.message);
      this.#waiting.get(id)?.(result);
      this.#waiting.delete(id);
    });
    session.post("NodeWorker.enable", { waitForDebuggerOnStart: false });
  }

  /** @param {string} sessionId @param {string} method @returns {Promise<{ usedSize?: number }>} */
  #ask(sessionId, method) {
    return new Promise((resolve) => {
      const id = ++this.#lastId;
      this.#waiting.set(id, resolve);
      const message = JSON.stringify({ id, method });
      this.#session.post("NodeWorker.sendMessageToWorker", { sessionId, message });
    });
  }

  /** Bytes in use when what is garbage is gone. */
  async collect() {
    let used = 0;
    for (const thread of this.#threads) {
      await this.#ask(thread, "HeapProfiler.collectGarbage");
      used += (await this.#ask(thread, "Runtime.getHeapUsage")).usedSize ?? 0;
    }
    return used;
  }

  close() {
    this.#session.disconnect();
  }
}

/**
 * What the process holds when all that can be given back is: resident, and of it JavaScript.
 * @param {{ heaps?: OtherHeaps, trim?: () => Promise<unknown> }} [live]
 */
async function look({ heaps, trim } = {}) {
  let others = 0;
  // Twice, with a turn between: what finalizers release is collected by the second.
  for (let i = 0; i < 2; i++) {
    globalThis.gc?.();
    others = (await heaps?.collect()) ?? 0;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  await trim?.();
  const { rss, heapUsed } = process.memoryUsage();
  return { resident: rss, javascript: heapUsed + others };
}

const looks = 5;

/**
 * @param {string} name
 * @param {number} count steps that are watched, after a quarter of them again to warm up
 * @param {(index: number) => Promise<void>} step
 * @param {Parameters<typeof look>[0]} [live]
 */
async function soak(name, count, step, live) {
  const warm = Math.max(20, Math.ceil(count / 4));
  /** @type {Awaited<ReturnType<typeof look>>[]} */
  const seen = [];
  // The first looks and the last: `looks` each, an equal number of steps apart.
  const apart = Math.max(1, Math.floor(count / 20));
  for (let i = 0; i <= count + warm; i++) {
    const fromStart = i - warm;
    const fromEnd = count + warm - i;
    const near = Math.min(fromStart, fromEnd);
    if (near >= 0 && near < looks * apart && near % apart === 0) seen.push(await look(live));
    if (fromEnd > 0) await step(i);
  }
  const floor = (/** @type {typeof seen} */ some, /** @type {"resident" | "javascript"} */ of) =>
    Math.min(...some.map((each) => each[of]));
  const grown = (/** @type {"resident" | "javascript"} */ of) =>
    floor(seen.slice(-looks), of) - floor(seen.slice(0, looks), of);
  const isGood = grown("resident") <= megabyte;
  if (!isGood) failures++;
  const shown = (/** @type {number} */ bytes) => `${(bytes / megabyte).toFixed(2)} MB`;
  process.stdout.write(
    `${name}: ${count} rounds after ${warm}, grown by ${shown(grown("resident"))}, ` +
      `JavaScript by ${shown(grown("javascript"))}: ${isGood ? "holds" : "LEAKS"} ` +
      `(resident ${seen.map(({ resident }) => (resident / megabyte).toFixed(1)).join(" ")})\n`,
  );
}

/** A model of one of the test's shapes, asked for what its engine does: no tokenizer is there. */
const tinyModels = ["tiny-llama", "tiny-mistral", "tiny-llama3"].map((name) =>
  join(root, "test/fixtures/models", name),
);
const sampling = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1 };
const penalties = { presencePenalty: 0, frequencyPenalty: 0, logitBias: [], seed: 0n };

/** @param {number} index */
function loadTiny(index) {
  const request = {
    path: tinyModels[index % tinyModels.length],
    threads: 2,
    contextLength: 0,
    kvCache: index % 2 === 0 ? "f16" : "int8",
    unpackToFloat: false,
    onInsufficientMemory: "ignore",
  };
  return nativeAddon().loadModel(request, () => {}).promise;
}

/** @param {number} index */
async function tinyCycle(index) {
  const model = await loadTiny(index);
  const prompt = Int32Array.from({ length: 20 }, (_, i) => (index + i) % 60);
  const stopTokens = new Int32Array(0);
  const asked = { ...sampling, ...penalties, prompt, maxTokens: 16, stopTokens };
  await model.generate(asked, () => {}).promise;
  await model.dispose();
}

/** Compressed weights, a tokenizer of 32,000 tokens with its thread, text. */
async function wholeCycle() {
  const model = await loadModel(exampleModel, { threads: 2 });
  await model.generate("Once upon a time", { maxTokens: 16 });
  await model.dispose();
}

// Alive throughout: somebody has to give back the free heap that a tokenizer's thread left.
const keeper = await loadTiny(0);
await soak(
  "load, generate, dispose",
  Number(options.cycles),
  async (index) => {
    await (index % 10 === 9 ? wholeCycle() : tinyCycle(index));
  },
  { trim: () => keeper.trim(true).promise },
);
await keeper.dispose();

const model = await loadModel(exampleModel, { threads: 2 });
const heaps = new OtherHeaps();
const alive = setInterval(() => {}, 1000); // the inspector's answers keep no process alive
await soak(
  "one session, 200 tokens a round",
  Math.ceil(Number(options.tokens) / 200),
  async (index) => {
    await model.generate(`Story number ${index}: once`, {
      maxTokens: 200,
      temperature: 1,
      seed: index,
    });
  },
  { heaps, trim: () => model.trim() },
);
clearInterval(alive);
heaps.close();
await model.dispose();
process.exitCode = failures > 0 ? 1 : 0;
