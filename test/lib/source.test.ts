import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { describe, expect, test } from "vitest";

import { requireBos, resolveSource } from "../../lib/source.js";
import { temporaryDirectory, writeTinyModel } from "../support/tiny-model.js";

function fileOf(name: string, contents: string | Buffer): string {
  const file = join(temporaryDirectory(), name);
  writeFileSync(file, contents);
  return file;
}

describe("a model directory", () => {
  test("gives its tokenizer, its start token and the files that belong to a copy", async () => {
    const path = writeTinyModel();
    writeFileSync(join(path, "generation_config.json"), "{}");
    const source = await resolveSource({ path });
    expect(source).toMatchObject({ path, bosTokenId: 1, trainedContextLength: 16 });
    const names = ["tokenizer.json", "generation_config.json"];
    expect(source.companions).toEqual(names.map((name) => join(path, name)));
    expect(source.companions.every(existsSync)).toBe(true);
  });

  test("without a usable start token says so where one is needed", async () => {
    for (const bos of [null, "1", -1, 1.5]) {
      const path = writeTinyModel();
      writeFileSync(join(path, "config.json"), JSON.stringify({ bos_token_id: bos }));
      const source = await resolveSource(path);
      expect(source.bosTokenId).toBeUndefined();
      expect(() => requireBos(source)).toThrow(/bos_token_id/);
    }
  });

  test("may list several start tokens: the first one counts", async () => {
    const path = writeTinyModel();
    writeFileSync(join(path, "config.json"), JSON.stringify({ bos_token_id: [7, 8] }));
    expect((await resolveSource(path)).bosTokenId).toBe(7);
  });

  test("without config.json, or with a damaged one, is refused by name", async () => {
    await expect(resolveSource(temporaryDirectory())).rejects.toMatchObject({ code: "FILE_ERROR" });
    const path = writeTinyModel();
    for (const text of ["{", "[]", "null", "3"]) {
      writeFileSync(join(path, "config.json"), text);
      await expect(resolveSource(path)).rejects.toMatchObject({ code: "CORRUPT_FILE" });
    }
  });
});

describe("a checkpoint file", () => {
  test("too short for a header, or with an impossible one, is refused", async () => {
    const short = fileOf("a.bin", Buffer.alloc(27));
    await expect(resolveSource(short)).rejects.toMatchObject({ code: "CORRUPT_FILE" });
    const zero = fileOf("a.bin", Buffer.alloc(28));
    await expect(resolveSource(zero)).rejects.toMatchObject({ code: "CORRUPT_FILE" });
  });

  test("whose vocabulary is negative has its own head, not a negative vocabulary", async () => {
    const header = Buffer.alloc(28);
    header.writeInt32LE(-32_000, 20);
    header.writeInt32LE(256, 24);
    const { tokenizerFiles, trainedContextLength } = await resolveSource(fileOf("a.bin", header));
    expect(tokenizerFiles).toMatchObject({ kind: "llama2c", vocabSize: 32_000 });
    expect(trainedContextLength).toBe(256);
  });
});

test("what is not there, or no source at all, is named", async () => {
  await expect(resolveSource("/nowhere/at/all")).rejects.toThrow(/\/nowhere\/at\/all/);
  for (const source of ["", {}, { path: 3 }, null, { path: "a", repo: "b" }]) {
    const given = source as { path: string };
    await expect(resolveSource(given)).rejects.toMatchObject({ code: "INVALID_OPTION" });
  }
});
