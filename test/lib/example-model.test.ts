/** The model in the package: as small and as good as it says, and ready right after install. */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";

import { describe, expect, test } from "vitest";

import { evaluate, exampleModel, inspect, loadModel } from "../../lib/index.js";
import { nativeAddon } from "../../lib/native.js";
import { readSafetensors } from "../support/packed-reader.js";

const notes = readFileSync(join(exampleModel, "MODEL.md"), "utf8");
const weights = join(exampleModel, "model.safetensors");

describe("the example model", () => {
  test("takes at most 0.80 bits per weight of its blocks, recounted from the file", async () => {
    const config = JSON.parse(readFileSync(join(exampleModel, "config.json"), "utf8"));
    const { hidden_size: h, intermediate_size: m, num_hidden_layers: layers } = config;
    const body = readSafetensors(weights).tensors.filter((tensor) =>
      tensor.name.startsWith("model.layers."),
    );
    const bytes = body.reduce((sum, tensor) => sum + tensor.bytes.length, 0);
    const bits = (8 * bytes) / (layers * (4 * h * h + 3 * h * m));
    expect(bits).toBeLessThanOrEqual(0.8);
    expect((await inspect(exampleModel)).bitsPerWeight.body).toBe(bits);
  });

  test("is a few megabytes, tokenizer and all", () => {
    const files = readdirSync(exampleModel);
    const bytes = files.reduce((sum, file) => sum + statSync(join(exampleModel, file)).size, 0);
    expect(bytes).toBeLessThan(8e6);
  });

  test("is the file its notes describe, licence included", () => {
    const sha256 = createHash("sha256").update(readFileSync(weights)).digest("hex");
    expect(notes).toContain(sha256);
    expect(notes).toContain("MIT");
    expect(notes).toContain("npx subbit compress");
  });

  test("tells a story: text it never saw surprises it far less than chance would", async () => {
    const text =
      "Once upon a time, there was a small dog named Max. Max liked to run in the park with his " +
      "friend Anna. One day, Max saw a big bird in a tree. He wanted to play with the bird, but " +
      "the bird was scared and flew away. Max was sad. Anna gave him a hug and said, " +
      '"Do not worry, Max. The bird will come back." The next day, the bird came back and they ' +
      "all played together. They were very happy.";
    const { perplexity } = await evaluate(exampleModel, { text, context: 96 });
    // Chance is 32,000; a model of single words about 400.
    expect(perplexity).toBeLessThan(20);
  });

  test("continues a prompt at once", async () => {
    const model = await loadModel(exampleModel);
    try {
      const { text } = await model.generate("Once upon a time", { maxTokens: 40 });
      expect(text).toMatch(/\b(was|there|a)\b/);
    } finally {
      await model.dispose();
    }
  });
});

describe("speed is not paid for with quality", () => {
  const engine = { path: exampleModel, threads: 1, contextLength: 96 };
  const load = (unpackToFloat: boolean, kvCache: "f16" | "int8") =>
    nativeAddon().loadModel({ ...engine, unpackToFloat, kvCache }, () => {}).promise;
  const sampling = {
    ...{ stopTokens: new Int32Array(0), temperature: 1, topK: 0, topP: 1, minP: 0 },
    ...{ repetitionPenalty: 1, presencePenalty: 0, frequencyPenalty: 0, logitBias: [] },
  };
  const perplexity = (logprobs: number[]) =>
    Math.exp(-logprobs.reduce((sum, each) => sum + each, 0) / logprobs.length);

  // Weights unpacked to float and multiplied as floats are the reference. Text is drawn from it, so
  // that what another path's perplexity has more is its divergence from the reference.
  test("integer products and an int8 cache move perplexity by less than 0.5 %", async () => {
    const reference = await load(true, "f16");
    const texts: Int32Array[] = [];
    for (let seed = 1n; seed <= 4n; seed++) {
      const ids = [1];
      const request = { ...sampling, seed, prompt: Int32Array.of(1), maxTokens: 95 };
      await reference.generate(request, (id) => ids.push(id)).promise;
      texts.push(Int32Array.from(ids));
    }
    const score = async (model: typeof reference) => {
      const all: number[] = [];
      for (const text of texts) all.push(...(await model.score(text).promise).logprobs);
      await model.dispose();
      return all;
    };
    const [exact, fast, small] = [
      await score(reference),
      await score(await load(false, "f16")),
      await score(await load(false, "int8")),
    ];
    expect(exact.length).toBe(4 * 95);
    for (const each of [fast, small]) {
      expect(Math.abs(perplexity(each) / perplexity(exact) - 1)).toBeLessThan(0.005);
      // Codes of 8 bits err by 0.3 % of a chunk's largest value; a fortieth of a nat is what
      // six layers of that left of these tokens' probabilities when this was written, twice over.
      const moved = each.reduce((sum, x, i) => sum + Math.abs(x - (exact[i] ?? 0)), 0);
      expect(moved / each.length).toBeLessThan(0.05);
    }
  }, 240_000);
});
