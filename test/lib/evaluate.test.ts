import { writeFileSync } from "node:fs";
import { join } from "node:path";

import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { evaluate, inspect } from "../../lib/index.js";
import { injectAddon } from "../../lib/native.js";
import { FakeAddon, nativeError } from "../support/fake-addon.js";
import { temporaryDirectory, writeTinyModel } from "../support/tiny-model.js";

let addon: FakeAddon;
beforeEach(() => {
  addon = new FakeAddon();
  injectAddon(addon);
});
afterEach(() => injectAddon(undefined));

describe("evaluate", () => {
  const text = "the cat and the cat. ".repeat(20);

  test("cuts the text, tokenized whole, into windows behind the start token", async () => {
    const path = writeTinyModel();
    const common = { context: 8, windows: 3, cacheDir: temporaryDirectory() };
    const evaluation = await evaluate(path, { text, ...common });
    expect(evaluation).toEqual({ perplexity: 5, tokens: 21, windows: 3 });
    const [request] = addon.evaluations;
    expect(request?.windows.map((window) => window.length)).toEqual([8, 8, 8]);
    expect(request?.windows.every((window) => window[0] === 1)).toBe(true);
    expect(request).toMatchObject({ path, teacherPath: "" });
    // A file says the same as its text.
    const file = join(temporaryDirectory(), "text");
    writeFileSync(file, text);
    await evaluate(path, { file, ...common });
    expect(addon.evaluations[1]).toEqual(request);
  });

  test("of a text shorter than a window says so", async () => {
    const job = evaluate(writeTinyModel(), { text: "a cat", cacheDir: temporaryDirectory() });
    await expect(job).rejects.toMatchObject({ code: "INVALID_OPTION" });
  });

  test("names a teacher or a text that is not there, or is no text", async () => {
    const path = writeTinyModel();
    const options = { context: 8, cacheDir: temporaryDirectory() };
    const teacher = evaluate(path, { ...options, text, teacher: "/nowhere" });
    await expect(teacher).rejects.toMatchObject({ code: "FILE_ERROR" });
    const missing = evaluate(path, { ...options, file: "/nowhere" });
    await expect(missing).rejects.toMatchObject({ code: "FILE_ERROR" });
    const file = join(temporaryDirectory(), "binary");
    writeFileSync(file, Buffer.of(0xff, 0xfe, 0x80));
    const binary = evaluate(path, { ...options, file });
    await expect(binary).rejects.toMatchObject({ code: "CORRUPT_FILE" });
  });

  test("throws the signal's reason", async () => {
    const options = { text, context: 8, signal: AbortSignal.abort("enough") };
    await expect(evaluate(writeTinyModel(), options)).rejects.toBe("enough");
  });
});

describe("inspect", () => {
  test("gives bits per weight of body and file", async () => {
    expect(await inspect("x")).toEqual({
      architecture: "llama",
      parameters: 1000,
      bytes: 4096,
      bitsPerWeight: { body: 0.75, file: 1.5 },
      tensors: [],
    });
  });

  test("maps the engine's errors", async () => {
    addon.failure = nativeError("CORRUPT_FILE");
    await expect(inspect("x")).rejects.toMatchObject({ name: "ModelError", code: "CORRUPT_FILE" });
  });
});
