/**
 * The API over the real engine: that the event loop stays free, that several models and threads get
 * along, that nothing is left behind, and that an abort takes effect.
 */
import { fork } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { Worker } from "node:worker_threads";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { compress, evaluate, inspect, loadModel, type Model } from "../../lib/index.js";
import { packageRoot } from "../../lib/package.js";
import { small, writeRandomModel } from "../support/random-model.js";
import { temporaryDirectory } from "../support/tiny-model.js";

const long = { hidden: 256, inner: 768, layers: 6, heads: 4, context: 4096 };
const paths = { small: "", long: "" };
beforeAll(() => {
  paths.small = writeRandomModel(small);
  paths.long = writeRandomModel(long);
});

/** About 4000 tokens: with one thread a prefill of a second or more. */
const longPrompt = "the cat and ".repeat(490);

async function withModel<T>(path: string, use: (model: Model) => Promise<T>): Promise<T> {
  const model = await loadModel(path, { threads: 1 });
  try {
    return await use(model);
  } finally {
    await model.dispose();
  }
}

describe("the event loop", () => {
  test("turns freely during a long prefill", async () => {
    await withModel(paths.long, async (model) => {
      await model.tokenizer.count("a");
      const delay = monitorEventLoopDelay({ resolution: 5 });
      delay.enable();
      const { usage, timing } = await model.generate(longPrompt, { maxTokens: 1 });
      delay.disable();
      const prefillMs = (1000 * usage.promptTokens) / timing.prefillTps;
      expect(usage.promptTokens).toBeGreaterThan(1000);
      // Long enough to tell apart from a loop that the prefill blocks.
      expect(prefillMs).toBeGreaterThan(200);
      expect(delay.percentile(99) / 1e6).toBeLessThan(50);
      expect(delay.max / 1e6).toBeLessThan(prefillMs / 2);
    });
  });
});

describe("several at once", () => {
  const prompt = "the cat";

  test("two models in one process say what each says alone", async () => {
    const alone = await withModel(paths.small, async (model) => await model.generate(prompt));
    const [first, second] = await Promise.all([loadModel(paths.small), loadModel(paths.small)]);
    const options = { maxTokens: 40 };
    const both = await Promise.all([first, second].map((m) => m.generate(prompt, options)));
    for (const { tokens } of both) expect(tokens).toEqual(alone.tokens.slice(0, 40));
    await Promise.all([first.dispose(), second.dispose()]);
  });

  test("generations of one model wait for one another", async () => {
    await withModel(paths.small, async (model) => {
      const [a, b, again] = await Promise.all([
        model.generate("the cat", { maxTokens: 20 }),
        model.generate("a cat and", { maxTokens: 20 }),
        model.generate("the cat", { maxTokens: 20 }),
      ]);
      expect(again.tokens).toEqual(a.tokens);
      expect(b.usage.generatedTokens).toBeGreaterThan(0);
    });
  });

  test("a prompt that goes on from the last one finds its tokens in the cache", async () => {
    await withModel(paths.small, async (model) => {
      await model.generate("the cat and the cat", { maxTokens: 1 });
      const { usage, tokens } = await model.generate("the cat and the cat and", { maxTokens: 5 });
      expect(usage.cachedTokens).toBeGreaterThan(5);
      const fresh = await withModel(paths.small, async (other) => {
        return await other.generate("the cat and the cat and", { maxTokens: 5 });
      });
      expect(tokens).toEqual(fresh.tokens);
    });
  });
});

describe("a worker thread", () => {
  const index = JSON.stringify(new URL("../../dist/index.js", import.meta.url).href);
  const script = (body: string) => `
    const { parentPort, workerData } = require("node:worker_threads");
    import(${index}).then(async ({ loadModel }) => {
      const model = await loadModel(workerData);
      ${body}
    });`;

  function run(body: string): Worker {
    return new Worker(script(body), { eval: true, workerData: paths.small });
  }

  test("can load and generate, while the main thread does so too", async () => {
    const worker = run(`
      parentPort.postMessage((await model.generate("the cat", { maxTokens: 20 })).tokens);
      await model.dispose();`);
    const ended = new Promise((resolve) => worker.on("exit", resolve));
    const [theirs, ours] = await Promise.all([
      new Promise((resolve, reject) => worker.on("message", resolve).on("error", reject)),
      withModel(paths.small, async (model) => await model.generate("the cat", { maxTokens: 20 })),
    ]);
    expect(theirs).toEqual(ours.tokens);
    expect(await ended).toBe(0);
  });

  test("that ends carelessly, or is terminated while streaming, takes nothing along", async () => {
    const careless = run("parentPort.postMessage(1); process.exit(0);");
    await new Promise((resolve) => careless.on("exit", resolve));
    const busy = run(`
      for (;;) for await (const _ of model.generate("the cat")) parentPort.postMessage(1);`);
    await new Promise((resolve) => busy.once("message", resolve));
    await busy.terminate();
    const { tokens } = await withModel(paths.small, async (m) => await m.generate("the cat"));
    expect(tokens.length).toBeGreaterThan(0);
  });
});

// How Electron hosts a model: its utility processes are forks that talk by messages.
describe("a child process", () => {
  test("that was forked can load and generate, and ends when it has no more to do", async () => {
    const script = join(temporaryDirectory(), "child.mjs");
    const index = JSON.stringify(new URL("../../dist/index.js", import.meta.url).href);
    writeFileSync(
      script,
      `import { loadModel } from ${index};
      process.once("message", async (path) => {
        const model = await loadModel(path);
        process.send((await model.generate("the cat", { maxTokens: 20 })).tokens);
        await model.dispose();
        process.disconnect();
      });`,
    );
    const child = fork(script, { execArgv: [] });
    const ended = once(child, "exit");
    child.send(paths.small);
    const [theirs] = await once(child, "message");
    const ours = await withModel(paths.small, async (m) => {
      return await m.generate("the cat", { maxTokens: 20 });
    });
    expect(theirs).toEqual(ours.tokens);
    expect(await ended).toEqual([0, null]);
  });
});

describe("what is left behind", () => {
  const tasks = () => (existsSync("/proc/self/task") ? readdirSync("/proc/self/task").length : 0);

  test("loading, generating and disposing in a loop grows neither memory nor threads", async () => {
    const round = async () => {
      const model = await loadModel(paths.long);
      await model.score([1, 5, 6, 7]);
      await model.dispose();
    };
    for (let warmup = 0; warmup < 20; warmup++) await round();
    const [memory, threads] = [process.memoryUsage.rss(), tasks()];
    for (let more = 0; more < 60; more++) await round();
    // One model with its KV cache is 20 MB and more: sixty that stayed would be over a gigabyte.
    expect(process.memoryUsage.rss() - memory).toBeLessThan(100e6);
    expect(tasks()).toBeLessThanOrEqual(threads + 1);
  });

  test("a process that does not dispose ends all the same", async () => {
    const { execFileSync } = await import("node:child_process");
    const url = JSON.stringify(new URL("../../dist/index.js", import.meta.url).href);
    const code = `
      const { loadModel } = await import(${url});
      const model = await loadModel(${JSON.stringify(paths.small)});
      for await (const _ of model.generate("the cat")) break;
      console.log(await model.tokenizer.count("the cat"));`;
    const args = ["--input-type=module", "-e", code];
    expect(execFileSync(process.execPath, args, { encoding: "utf8", timeout: 30_000 })).toMatch(
      /^\d+\n$/,
    );
  });
});

describe("ending early", () => {
  test("an abort in the middle of a prefill takes effect long before its end", async () => {
    await withModel(paths.long, async (model) => {
      const tokens = await model.tokenizer.count(longPrompt);
      const whole = await model.generate(longPrompt, { maxTokens: 1 });
      const prefillMs = (1000 * tokens) / whole.timing.prefillTps;
      const control = new AbortController();
      // Another start, so that the cache holds nothing of it.
      const aborted = model.generate(`a${longPrompt}`, { signal: control.signal }).then(() => {});
      setTimeout(() => control.abort("enough"), prefillMs / 10);
      const started = performance.now();
      await expect(aborted).rejects.toBe("enough");
      expect(performance.now() - started).toBeLessThan(0.8 * prefillMs);
      const { usage } = await model.generate("the cat", { maxTokens: 3 });
      expect(usage.generatedTokens).toBe(3);
    });
  });

  test("the model is free for the next generation when the loop is left", async () => {
    await withModel(paths.small, async (model) => {
      for (let round = 0; round < 20; round++) {
        for await (const chunk of model.generate("the cat")) if (chunk.type === "text") break;
      }
      const { tokens } = await model.generate("the cat", { maxTokens: 5 });
      const fresh = await withModel(paths.small, (other) =>
        Promise.resolve(other.generate("the cat", { maxTokens: 5 })),
      );
      expect(tokens).toEqual(fresh.tokens);
    });
  });

  test("disposing while streaming ends the stream with DISPOSED", async () => {
    const model = await loadModel(paths.long);
    const run = async () => {
      for await (const _ of model.generate("the cat")) await model.dispose();
    };
    await expect(run()).rejects.toMatchObject({ code: "DISPOSED" });
  });

  test("an aborted load rejects with the reason", async () => {
    const signal = AbortSignal.abort("enough");
    await expect(loadModel(paths.small, { signal })).rejects.toBe("enough");
  });
});

describe("sampling", () => {
  test("a seed gives its text again, another seed another", async () => {
    await withModel(paths.small, async (model) => {
      const say = async (seed: number) =>
        (await model.generate("the cat", { seed, temperature: 1, maxTokens: 30 })).tokens;
      const first = await say(1);
      expect(await say(1)).toEqual(first);
      expect(await say(2)).not.toEqual(first);
    });
  });

  test("a bias of a token decides", async () => {
    await withModel(paths.small, async (model) => {
      const { tokens } = await model.generate("a", { maxTokens: 5, logitBias: { 270: 1000 } });
      expect(tokens).toEqual([270, 270, 270, 270, 270]);
    });
  });

  test("a prompt longer than the context is CONTEXT_OVERFLOW", async () => {
    await withModel(paths.small, async (model) => {
      const generation = model.generate("the cat ".repeat(200));
      await expect(generation).rejects.toMatchObject({ code: "CONTEXT_OVERFLOW" });
    });
  });
});

describe("compress", () => {
  const text = "the cat and the cat. a cat and a hand. ".repeat(60);
  const options = {
    target: { bitsPerWeight: 3 },
    calibration: [text],
    effort: "fast" as const,
    cacheDir: temporaryDirectory(),
  };
  const weights = (directory: string) => readFileSync(join(directory, "model.safetensors"));

  test("makes a model that loads, of the size that inspect says", async () => {
    const out = join(temporaryDirectory(), "out");
    const report = await compress(paths.small, { ...options, out });
    const { bytes, bitsPerWeight, tensors } = await inspect(out);
    expect(bytes).toBe(weights(out).length);
    expect(report).toMatchObject({ bytes, bitsPerWeight });
    expect(bitsPerWeight.body).toBeLessThanOrEqual(3);
    expect(tensors.some(({ format }) => format.includes("factored"))).toBe(true);
    await withModel(out, async (model) => {
      const { tokens } = await model.generate("the cat", { maxTokens: 10 });
      expect((await model.generate("the cat", { maxTokens: 10 })).tokens).toEqual(tokens);
      expect(model.info.bitsPerWeight).toEqual(bitsPerWeight);
    });
    const { teacher } = await evaluate(out, {
      text,
      context: 32,
      teacher: paths.small,
      cacheDir: options.cacheDir,
    });
    expect(teacher?.klMean).toBeGreaterThan(0);
    expect(teacher?.klP99).toBeGreaterThanOrEqual(teacher?.klMean ?? 0);
  });

  test("stopped in the middle, the same call goes on and writes the same bytes", async () => {
    const whole = join(temporaryDirectory(), "out");
    await compress(paths.small, { ...options, out: whole });
    const out = join(temporaryDirectory(), "out");
    const job = compress(paths.small, { ...options, out });
    for await (const event of job) {
      if (event.phase === "fit" && event.detail?.includes("layers.2")) break;
    }
    await expect(job).rejects.toMatchObject({ code: "ABORTED" });
    expect(existsSync(out)).toBe(false);
    expect(existsSync(`${out}.state`)).toBe(true);
    const report = await compress(paths.small, { ...options, out });
    expect(report.resumedBlocks).toBe(2);
    expect(weights(out).equals(weights(whole))).toBe(true);
    expect(existsSync(`${out}.state`)).toBe(false);
  });
});

const shared = join(packageRoot, "../shared/data");

describe.skipIf(!existsSync(shared))("real models (../shared/data)", () => {
  const models: Model[] = [];
  afterAll(() => Promise.all(models.map((model) => model.dispose())));

  test.each([
    [
      "stories260K",
      ", there was a little girl named Lily. She loved to play outside in the park. One day, she " +
        "saw a big, red ball. She wanted to play with it, but it was too high.",
    ],
    [
      "TinyStories-656K",
      ", a little girl named Lily lived in a small house with her mom, dad, and her dog, Spot, " +
        "Spot, loved to play all day. One day, Lily saw a small bird on the ground.",
    ],
    [
      "stories15M",
      ", there was a little girl named Lily. She loved to play outside in the sunshine. One day, " +
        "she saw a big, red ball in the sky. It was the sun! She thought it was so pretty.",
    ],
  ])("%s goes on as it is recorded", async (name, story) => {
    const model = await loadModel(join(shared, "models", name));
    models.push(model);
    const { text } = await model.generate("Once upon a time", { maxTokens: 80, stop: "\n" });
    expect(text.startsWith(story), text).toBe(true);
  });
});
