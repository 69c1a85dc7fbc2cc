import { getEventListeners } from "node:events";

import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { type Chunk, loadModel, type Model } from "../../lib/index.js";
import { injectAddon } from "../../lib/native.js";
import { FakeAddon, nativeError } from "../support/fake-addon.js";
import { writeTinyModel } from "../support/tiny-model.js";

let addon: FakeAddon;
let model: Model;

beforeEach(async () => {
  addon = new FakeAddon();
  injectAddon(addon);
  model = await loadModel(writeTinyModel());
});

afterEach(async () => {
  await model.dispose();
  injectAddon(undefined);
});

/** Makes the model say `text` after a prompt. */
async function says(text: string): Promise<void> {
  addon.says = [...(await model.tokenizer.encode(text))];
}

async function chunksOf(chunks: AsyncIterable<Chunk>): Promise<Chunk[]> {
  const all: Chunk[] = [];
  for await (const chunk of chunks) all.push(chunk);
  return all;
}

const textOf = (chunks: Chunk[]) =>
  chunks.map((chunk) => (chunk.type === "text" ? chunk.text : "")).join("");

describe("the stream", () => {
  test("is text chunks with their tokens, and one finish chunk at the end", async () => {
    await says("the cat");
    const chunks = await chunksOf(model.generate("a"));
    expect(chunks.slice(0, -1).every(({ type }) => type === "text")).toBe(true);
    // The continuation keeps the space that parts it from the prompt.
    expect(textOf(chunks)).toBe(" the cat");
    expect(chunks.flatMap((chunk) => (chunk.type === "text" ? chunk.tokens : []))).toEqual(
      addon.says,
    );
    expect(chunks.at(-1)).toMatchObject({
      type: "finish",
      finishReason: "stop",
      usage: { promptTokens: 2, cachedTokens: 1, generatedTokens: addon.says.length },
      timing: { prefillTps: 500, decodeTps: (1000 * addon.says.length) / 4 },
    });
  });

  test("of an empty prompt begins as a text does", async () => {
    await says("the cat");
    expect((await model.generate("")).text).toBe("the cat");
    expect([...(addon.requests[0]?.prompt ?? [])]).toEqual([1]);
  });

  test("never carries half a character, nor loses an unfinished one", async () => {
    await says("\u{1F600}a\u20ac");
    const whole = await chunksOf(model.generate("a"));
    expect(textOf(whole)).toBe(" \u{1F600}a\u20ac");
    for (const chunk of whole) {
      if (chunk.type === "text") expect(chunk.text).not.toContain("\uFFFD");
    }
    addon.says = addon.says.slice(0, -1);
    expect((await model.generate("a")).text).toBe(" \u{1F600}a\uFFFD");
  });

  test("gives a slow reader several tokens at once, and loses none", async () => {
    await says("a cat and the cat and the cat");
    const chunks: Chunk[] = [];
    for await (const chunk of model.generate("a")) {
      chunks.push(chunk);
      await new Promise((resolve) => setTimeout(resolve, 30));
    }
    expect(textOf(chunks)).toBe(" a cat and the cat and the cat");
    expect(chunks.length).toBeLessThan(5);
  });

  test("as text alone", async () => {
    await says("the cat");
    const parts: string[] = [];
    for await (const part of model.generate("a").text) parts.push(part);
    expect(parts.join("")).toBe(" the cat");
  });

  test("as a web stream, whose cancelling cancels", async () => {
    await says("the cat");
    const stream = model.generate("a").toReadableStream();
    expect(textOf(await chunksOf(stream))).toBe(" the cat");
    addon.says = Array(1000).fill(addon.says[0]);
    const reader = model.generate("a", { maxTokens: 1000 }).toReadableStream().getReader();
    await reader.read();
    await reader.cancel();
    expect(addon.jobs.at(-1)?.state.isAborted).toBe(true);
  });
});

describe("the promise", () => {
  test("has the whole text", async () => {
    await says("the cat");
    const result = await model.generate("a", { maxTokens: 2 });
    expect(result.finishReason).toBe("length");
    expect(result.tokens).toEqual(addon.says.slice(0, 2));
    expect(result.text).toBe(
      await model.tokenizer.decode([...addon.says.slice(0, 2)]).then((t) => ` ${t}`),
    );
  });

  test("is made only when it is asked for: who iterates sees a failure once", async () => {
    addon.failure = nativeError("NON_FINITE", "a NaN in layer 3");
    const unhandled: unknown[] = [];
    const listener = (reason: unknown) => unhandled.push(reason);
    process.on("unhandledRejection", listener);
    await expect(chunksOf(model.generate("a"))).rejects.toMatchObject({ code: "NON_FINITE" });
    await new Promise((resolve) => setTimeout(resolve, 20));
    process.off("unhandledRejection", listener);
    expect(unhandled).toEqual([]);
  });

  test("may be awaited twice; the stream has one consumer", async () => {
    await says("cat");
    const generation = model.generate("a");
    const [first, second] = await Promise.all([generation, generation]);
    expect(second).toBe(first);
    expect(addon.requests).toHaveLength(1);
    await expect(chunksOf(generation)).rejects.toMatchObject({ code: "INVALID_OPTION" });
    const iterated = model.generate("a");
    await chunksOf(iterated);
    await expect(iterated).rejects.toMatchObject({ code: "INVALID_OPTION" });
  });

  test("nothing is started by a generation that nobody consumes", async () => {
    model.generate("a");
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(addon.requests).toEqual([]);
  });
});

describe("stop strings", () => {
  test("end the text before them and stop the engine, though they come in parts", async () => {
    await says("a cat and the cat and the cat");
    const chunks = await chunksOf(model.generate("a", { stop: ["nd the"] }));
    expect(textOf(chunks)).toBe(" a cat a");
    expect(chunks.at(-1)).toMatchObject({ finishReason: "stop" });
    expect(addon.jobs.at(-1)?.state.isAborted).toBe(true);
  });

  test("that do not come whole leave the text as it is", async () => {
    await says("a cat");
    expect((await model.generate("a", { stop: "cats" })).text).toBe(" a cat");
  });
});

describe("ending early", () => {
  const long = () => {
    addon.says = Array(100_000).fill(addon.says[0]);
    return { maxTokens: 100_000 };
  };

  test("leaving the loop cancels, and the engine is free when the loop is left", async () => {
    await says("the");
    for await (const chunk of model.generate("a", long())) {
      expect(chunk.type).toBe("text");
      break;
    }
    const job = addon.jobs.at(-1);
    expect(job?.state.isAborted).toBe(true);
    const { step } = job?.state ?? {};
    await new Promise((resolve) => setTimeout(resolve, 10));
    expect(job?.state.step).toBe(step);
  });

  test("cancel() ends it with what there is", async () => {
    await says("the");
    const generation = model.generate("a", long());
    let text = "";
    for await (const chunk of generation) {
      if (chunk.type === "text") text += chunk.text;
      else expect(chunk.finishReason).toBe("cancelled");
      generation.cancel();
    }
    expect(text).toContain("the");
    const never = model.generate("a");
    never.cancel();
    expect(await never).toMatchObject({ text: "", finishReason: "cancelled" });
  });

  test("an abort throws the signal's own reason, before and in the middle", async () => {
    await says("the");
    const reason = new Error("enough");
    const early = model.generate("a", { signal: AbortSignal.abort(reason) });
    await expect(early).rejects.toBe(reason);
    expect(addon.requests).toEqual([]);
    const control = new AbortController();
    const run = async () => {
      for await (const _ of model.generate("a", { ...long(), signal: control.signal })) {
        control.abort(reason);
      }
    };
    await expect(run()).rejects.toBe(reason);
    expect(addon.jobs.at(-1)?.state.isAborted).toBe(true);
  });

  test("an abort during a prefill that says nothing is noticed", async () => {
    addon.silentTurns = Number.MAX_SAFE_INTEGER;
    const control = new AbortController();
    const generation = model.generate("a", { signal: control.signal }).then(() => {});
    await expect.poll(() => addon.requests.length).toBe(1);
    control.abort("enough");
    await expect(generation).rejects.toBe("enough");
  });

  test("with onAbort return it ends with what there is", async () => {
    await says("the");
    const control = new AbortController();
    const options = { ...long(), signal: control.signal, onAbort: "return" as const };
    let last: Chunk | undefined;
    for await (const chunk of model.generate("a", options)) {
      last = chunk;
      control.abort();
    }
    expect(last).toMatchObject({ type: "finish", finishReason: "cancelled" });
  });

  test("a signal keeps no listener of a generation that is over", async () => {
    await says("the cat");
    const { signal } = new AbortController();
    for (let round = 0; round < 3; round++) await model.generate("a", { signal });
    for await (const _ of model.generate("a", { signal })) break;
    expect(getEventListeners(signal, "abort")).toEqual([]);
  });
});

test("an engine that refuses the prompt says why", async () => {
  addon.failure = nativeError("CONTEXT_OVERFLOW", "too long", { expected: "16", actual: "20" });
  await expect(model.generate("a")).rejects.toMatchObject({
    code: "CONTEXT_OVERFLOW",
    details: { expected: "16", actual: "20" },
  });
});

test("the request carries the options, the stop tokens and the seed", async () => {
  await model.generate("a", { temperature: 0.5, topK: 3, seed: 7, logitBias: { 5: -1 } });
  expect(addon.requests[0]).toMatchObject({
    temperature: 0.5,
    topK: 3,
    seed: 7n,
    logitBias: [[5, -1]],
    stopTokens: Int32Array.of(2),
    maxTokens: 16,
  });
  expect(Object.keys(addon.requests[0] ?? {}).sort()).toEqual(
    [
      "prompt",
      "maxTokens",
      "stopTokens",
      "temperature",
      "topK",
      "topP",
      "minP",
      "repetitionPenalty",
      "presencePenalty",
      "frequencyPenalty",
      "logitBias",
      "seed",
    ].sort(),
  );
});
