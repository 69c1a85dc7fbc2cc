/** synthesize() around the engine: its shapes, what it refuses, and that nothing half stays. */
import { existsSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";

import { describe, expect, test } from "vitest";

import { inspect, loadModel, ModelError, shapes, synthesize } from "../../lib/index.js";
import { temporaryDirectory } from "../support/tiny-model.js";

/** A model of a few kilobytes. */
function tinyConfig(): string {
  const file = join(temporaryDirectory(), "config.json");
  const config = { hidden_size: 64, intermediate_size: 96, num_hidden_layers: 2, vocab_size: 300 };
  writeFileSync(
    file,
    JSON.stringify({
      ...shapes["stories15m"],
      ...config,
      num_attention_heads: 4,
      num_key_value_heads: 4,
    }),
  );
  return file;
}

describe("synthesize", () => {
  test("writes a model that loads, within the bits, and reports what inspect counts", async () => {
    const out = join(temporaryDirectory(), "out");
    const phases = new Set<string>();
    const report = await synthesize({
      shape: tinyConfig(),
      out,
      bitsPerWeight: 2,
      onProgress: ({ phase }) => phases.add(phase),
    });
    const inspection = await inspect(out);
    expect(report).toMatchObject({ out, bytes: inspection.bytes });
    expect(report.parameters).toBe(inspection.parameters);
    expect(report.bitsPerWeight).toEqual(inspection.bitsPerWeight);
    expect(report.bitsPerWeight.body).toBeLessThanOrEqual(2);
    expect([...phases]).toEqual(["write"]);
    const model = await loadModel(out);
    expect(model.info.vocabSize).toBe(300);
    await model.dispose();
  });

  test("knows the parameters of its shapes as their names say them", async () => {
    const out = join(temporaryDirectory(), "out");
    const { parameters, bitsPerWeight } = await synthesize({ shape: "stories15m", out });
    expect(parameters).toBe(15_191_712);
    expect(bitsPerWeight.body).toBeGreaterThan(0.7);
    expect(bitsPerWeight.body).toBeLessThanOrEqual(0.8);
  });

  test("replaces nothing, and refuses a shape that it does not know", async () => {
    const out = join(temporaryDirectory(), "out");
    const options = { shape: tinyConfig(), out, bitsPerWeight: 2 };
    await synthesize(options);
    await expect(synthesize(options)).rejects.toMatchObject({ code: "INVALID_OPTION" });
    for (const shape of ["llama-2-8b", "toString"]) {
      const unknown = synthesize({ ...options, shape });
      await expect(unknown).rejects.toThrow(/llama-2-7b/);
    }
  });

  test("aborted, it throws the signal's reason and leaves nothing", async () => {
    const out = join(temporaryDirectory(), "out");
    const control = new AbortController();
    const job = synthesize({
      // Large enough not to be done before the event arrives.
      shape: "llama-110m",
      out,
      signal: control.signal,
      onProgress: () => control.abort(new Error("enough")),
    });
    await expect(job).rejects.toThrow("enough");
    expect(readdirSync(dirname(out))).toEqual([]);
  });

  test("a config of another architecture is the engine's error, and leaves nothing", async () => {
    const file = join(temporaryDirectory(), "config.json");
    writeFileSync(file, JSON.stringify({ model_type: "gpt2" }));
    const out = join(temporaryDirectory(), "out");
    const failure = await synthesize({ shape: file, out }).catch((error: unknown) => error);
    expect(ModelError.isInstance(failure) && failure.code).toBe("UNSUPPORTED_ARCH");
    expect(existsSync(`${out}.partial`)).toBe(false);
  });
});
