import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { describe, expect, test } from "vitest";

import { packageRoot } from "../../../lib/package.js";
import { cacheKey, encoderVersion, readCached, writeCached } from "../../../lib/text/id-cache.js";
import { temporaryDirectory } from "../../support/tiny-model.js";

const ids = Int32Array.of(1, 2, 31_999, 0);

describe("cached ids", () => {
  test("come back as they were, and no other file stays", async () => {
    const directory = join(temporaryDirectory(), "made", "on", "demand");
    await writeCached(directory, "k", ids);
    expect(await readCached(directory, "k")).toEqual(ids);
    expect(await readCached(directory, "other")).toBeUndefined();
    expect(readdirSync(directory)).toEqual(["k.ids"]);
  });

  test("that are damaged anywhere are as if they were not there", async () => {
    const directory = temporaryDirectory();
    await writeCached(directory, "k", ids);
    const file = join(directory, "k.ids");
    const sound = readFileSync(file);
    for (let at = 0; at < sound.length; at++) {
      const damaged = Buffer.from(sound);
      damaged[at] = (damaged[at] ?? 0) ^ 0x10;
      writeFileSync(file, damaged);
      expect(await readCached(directory, "k"), `byte ${at}`).toBeUndefined();
      writeFileSync(file, sound.subarray(0, at));
      expect(await readCached(directory, "k"), `cut at ${at}`).toBeUndefined();
    }
  });

  test("that cannot be written fail nothing", async () => {
    const directory = temporaryDirectory();
    const blocked = join(directory, "file");
    writeFileSync(blocked, "");
    await expect(writeCached(blocked, "k", ids)).resolves.toBeUndefined();
    mkdirSync(join(directory, "k.ids"));
    await expect(writeCached(directory, "k", ids)).resolves.toBeUndefined();
    expect(readdirSync(directory).sort()).toEqual(["file", "k.ids"]);
  });
});

test("the key differs by text and by tokenizer", () => {
  const [a, b] = [Buffer.from("a"), Buffer.from("b")];
  const keys = [
    cacheKey("t", [a]),
    cacheKey("u", [a]),
    cacheKey("t", [b]),
    cacheKey("t", [a, b]),
    cacheKey("t", [Buffer.from("ab")]),
  ];
  expect(new Set(keys).size).toBe(keys.length);
  expect(cacheKey("t", [Buffer.from("a")])).toBe(keys[0]);
});

test("the key names the installed release of the tokenizer library", () => {
  const file = join(packageRoot, "node_modules/@huggingface/tokenizers/package.json");
  const { version } = JSON.parse(readFileSync(file, "utf8"));
  // Another release may encode otherwise: old caches must then not be read.
  const release = version.split(".").slice(0, 2).join(".");
  expect(encoderVersion.endsWith(`@huggingface/tokenizers-${release}`)).toBe(true);
});
