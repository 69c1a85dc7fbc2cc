/** The model in the package: as small and as good as it says, and ready right after install. */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";

import { describe, expect, test } from "vitest";

import { evaluate, exampleModel, inspect, loadModel } from "../../lib/index.js";
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
