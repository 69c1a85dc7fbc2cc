import { readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";

import { afterEach, describe, expect, test } from "vitest";

import { resolveSource } from "../../lib/source.js";
import { Tokenizer } from "../../lib/text.js";
import {
  temporaryDirectory,
  tinyTokenizer,
  tokenizerBin,
  words,
  writeTinyModel,
} from "../support/tiny-model.js";

const open: Tokenizer[] = [];
afterEach(() => Promise.all(open.splice(0).map((tokenizer) => tokenizer.close())));

async function tokenizerOf(path: string, cacheDir = temporaryDirectory()): Promise<Tokenizer> {
  const { tokenizerFiles, bosTokenId } = await resolveSource(path);
  const tokenizer = new Tokenizer(tokenizerFiles, { bosTokenId, cacheDir });
  open.push(tokenizer);
  return tokenizer;
}

describe("Tokenizer", () => {
  test("encodes, counts and decodes", async () => {
    const tokenizer = await tokenizerOf(writeTinyModel());
    const ids = await tokenizer.encode("the cat");
    expect(ids).toBeInstanceOf(Int32Array);
    expect(await tokenizer.count("the cat")).toBe(ids.length);
    expect(await tokenizer.decode(ids)).toBe("the cat");
    expect(await tokenizer.decode([])).toBe("");
  });

  test("the start token comes where it is asked for", async () => {
    const tokenizer = await tokenizerOf(writeTinyModel());
    const ids = await tokenizer.encode("cat");
    expect([...(await tokenizer.encode("cat", { bos: true }))]).toEqual([1, ...ids]);
    expect([...(await tokenizer.encodePrompt("cat"))]).toEqual([1, ...ids]);
    // Who writes it into the text does not get it twice.
    expect([...(await tokenizer.encodePrompt("<s>cat"))]).toEqual([1, ...ids]);
    expect([...(await tokenizer.encodePrompt(""))]).toEqual([1]);
  });

  test("a tokenizer that is used without a start token gives prompts none", async () => {
    const json = { ...tinyTokenizer(words), post_processor: { type: "ByteLevel" } };
    const tokenizer = await tokenizerOf(writeTinyModel(json));
    expect((await tokenizer.encodePrompt("cat"))[0]).not.toBe(1);
  });

  test("a llama2.c checkpoint's tokenizer.bin is used", async () => {
    const directory = temporaryDirectory();
    const pieces = [" ", "a", " a"];
    const header = Buffer.alloc(28);
    header.writeInt32LE(259 + pieces.length, 20);
    header.writeInt32LE(16, 24);
    writeFileSync(join(directory, "model.bin"), header);
    writeFileSync(join(directory, "tokenizer.bin"), tokenizerBin(pieces));
    const tokenizer = await tokenizerOf(join(directory, "model.bin"));
    expect([...(await tokenizer.encodePrompt("a"))]).toEqual([1, 261]);
    expect(JSON.parse(await tokenizer.json()).model.type).toBe("BPE");
  });

  test("a missing or damaged tokenizer.json is named, and only when text is needed", async () => {
    const directory = writeTinyModel();
    rmSync(join(directory, "tokenizer.json"));
    const removed = await tokenizerOf(directory);
    await expect(removed.encode("a")).rejects.toMatchObject({ code: "FILE_ERROR" });
    await expect(removed.decode([1])).rejects.toThrow(/tokenizer\.json/);
    writeFileSync(join(directory, "tokenizer.json"), "{");
    const damaged = await tokenizerOf(directory);
    await expect(damaged.encode("a")).rejects.toMatchObject({
      code: "CORRUPT_FILE",
      details: { file: join(directory, "tokenizer.json") },
    });
  });
});

describe("cached ids", () => {
  test("are read back, so that the tokenizer need not be built", async () => {
    const [directory, cache] = [writeTinyModel(), temporaryDirectory()];
    const first = await tokenizerOf(directory, cache);
    const ids = await first.encode("the cat", { cache: true });
    expect(readdirSync(cache)).toHaveLength(1);
    const again = await tokenizerOf(directory, cache);
    expect(await again.encode("the cat", { cache: true })).toEqual(ids);
  });

  test("are only kept of texts for which that was asked", async () => {
    const cache = temporaryDirectory();
    const tokenizer = await tokenizerOf(writeTinyModel(), cache);
    await tokenizer.encode("a secret");
    expect(readdirSync(cache)).toEqual([]);
  });

  test("of another tokenizer are not taken", async () => {
    const cache = temporaryDirectory();
    const merged = await (await tokenizerOf(writeTinyModel(), cache)).encode("cat", {
      cache: true,
    });
    const plain = writeTinyModel(tinyTokenizer({ ...words, merges: [] }));
    const single = await (await tokenizerOf(plain, cache)).encode("cat", { cache: true });
    expect(single.length).toBeGreaterThan(merged.length);
  });
});

describe("the tokenizer's thread", () => {
  test("a long text leaves the event loop free", async () => {
    const tokenizer = await tokenizerOf(writeTinyModel());
    const text = "the cat and the cat. ".repeat(20_000);
    await tokenizer.count("a");
    const delay = monitorEventLoopDelay({ resolution: 5 });
    delay.enable();
    const ids = await tokenizer.encode(text);
    delay.disable();
    expect(ids.length).toBeGreaterThan(100_000);
    // Copying the ids over is all that happens here: a few ms; the encoding takes hundreds.
    expect(delay.max / 1e6).toBeLessThan(50);
  });

  test("whoever aborts stops waiting at once, with the signal's reason", async () => {
    const tokenizer = await tokenizerOf(writeTinyModel());
    const control = new AbortController();
    const waiting = tokenizer.encode("the cat ".repeat(50_000), { signal: control.signal });
    control.abort("enough");
    await expect(waiting).rejects.toBe("enough");
    await expect(tokenizer.encode("a", { signal: control.signal })).rejects.toBe("enough");
    expect(await tokenizer.count("cat")).toBeGreaterThan(0);
  });

  test("close ends it: calls that wait and later ones fail with DISPOSED", async () => {
    const tokenizer = await tokenizerOf(writeTinyModel());
    const waiting = tokenizer.encode("the cat ".repeat(50_000));
    const closing = tokenizer.close();
    await expect(waiting).rejects.toMatchObject({ code: "DISPOSED" });
    await expect(tokenizer.encode("a")).rejects.toMatchObject({ code: "DISPOSED" });
    await closing;
    await tokenizer.close();
  });
});
