import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

import { Tokenizer as Library } from "@huggingface/tokenizers";
import { describe, expect, test } from "vitest";

import { packageRoot } from "../../../lib/package.js";
import { cutterOf, Encoder } from "../../../lib/text/encoder.js";
import { repeatableRandom, space, tinyTokenizer, words } from "../../support/tiny-model.js";

const shared = join(packageRoot, "../shared/data");

/** The ids of a whole text by the library alone: what pieces must not change. */
function wholeIds(json: object, text: string): number[] {
  return new Library(json, {}).encode(text, { add_special_tokens: false }).ids;
}

function pieceIds(json: object, text: string): number[] {
  return [...new Encoder(json as Record<string, unknown>, {}, "tokenizer.json").encode(text)];
}

describe("text encoded in pieces has the ids of the whole text", () => {
  const texts = {
    stories: "text/tinystories-valid.txt",
    encyclopedia: "text/wikitext2-raw-test.txt",
  };
  for (const model of ["stories260K", "stories15M", "TinyStories-656K"]) {
    for (const [name, file] of Object.entries(texts)) {
      const tokenizer = join(shared, "models", model, "tokenizer.json");
      const isThere = existsSync(tokenizer) && existsSync(join(shared, file));
      test.skipIf(!isThere)(`${model}, ${name} (../shared/data)`, () => {
        const json = JSON.parse(readFileSync(tokenizer, "utf8"));
        // From the middle of a word, so that the start is no special case.
        const text = readFileSync(join(shared, file), "utf8").slice(40_003, 52_003);
        const ids = pieceIds(json, text);
        expect(ids.length).toBeGreaterThan(1000);
        expect(ids).toEqual(wholeIds(json, text));
      });
    }
  }

  test("for any merges, also such as join words", () => {
    const random = repeatableRandom(11);
    const pick = <T>(of: readonly T[]): T => of[Math.floor(random() * of.length)] as T;
    for (let round = 0; round < 200; round++) {
      const pieces = [space, "a", "b", "c", "\u{1F600}"];
      const merges: [string, string][] = [];
      for (let count = 0; count < 1 + Math.floor(random() * 8); count++) {
        const pair: [string, string] = [pick(pieces), pick(pieces)];
        if (pieces.includes(pair[0] + pair[1])) continue;
        merges.push(pair);
        pieces.push(pair[0] + pair[1]);
      }
      // "c" is no piece: the bytes take its place, and a merge may still name it.
      const json = tinyTokenizer({ characters: `${space}ab\u{1F600}`, merges });
      const text = Array.from({ length: 60 }, () => pick([" ", "a", "b", "c", "\u{1F600}"]));
      const joined = text.join("");
      expect(pieceIds(json, joined), JSON.stringify({ merges, joined })).toEqual(
        wholeIds(json, joined),
      );
    }
  });

  test("unknown characters beside each other are one unknown token, also across a cut", () => {
    const json = tinyTokenizer({ ...words, byteFallback: false });
    expect(pieceIds(json, "a\u00e9\u20ac b")).toEqual(wholeIds(json, "a\u00e9\u20ac b"));
    expect(pieceIds(json, "\u00e9\u20ac")).toEqual([expect.any(Number), 0]);
  });
});

describe("marks in a text", () => {
  const json = tinyTokenizer(words);

  test("become the tokens they name, and what stands between them is encoded as by itself", () => {
    const text = "the cat</s><s> and</s>";
    expect(pieceIds(json, text)).toEqual(wholeIds(json, text));
    expect(pieceIds(json, text).filter((id) => id < 3)).toEqual([2, 1, 2]);
  });

  test("are found in normalized text as well", () => {
    const normalized = { ...json, added_tokens: json.added_tokens.map((t) => ({ ...t })) };
    for (const token of normalized.added_tokens) token.normalized = true;
    for (const text of ["a </s> b", "</s>", "the cat"]) {
      expect(pieceIds(normalized, text)).toEqual(wholeIds(normalized, text));
    }
  });

  test("that swallow the spaces around them do so", () => {
    const greedy = {
      ...json,
      added_tokens: json.added_tokens.map((t) => ({ ...t, rstrip: true })),
    };
    expect(pieceIds(greedy, "a</s>   the")).toEqual(wholeIds(greedy, "a</s>   the"));
  });
});

describe("other kinds of tokenizers", () => {
  test("a pre-tokenizer's words are kept", () => {
    const json = tinyTokenizer(words);
    json.normalizer = null as unknown as typeof json.normalizer;
    json.pre_tokenizer = { type: "Metaspace", replacement: space, prepend_scheme: "first" };
    const text = "the cat and the cat</s> a cat";
    expect(pieceIds(json, text)).toEqual(wholeIds(json, text));
  });

  test("Digits parts all numeric characters, not ASCII's alone", () => {
    // Each byte-level character is a token here; "\u0120a" joins a space and what follows it.
    const vocab = Object.fromEntries(
      ["\u0120", "\u00c2", "\u00bd", "1", "2", "a", "\u0120\u00c2", "12", "\u01201"].map(
        (piece, id) => [piece, id],
      ),
    );
    const json = (individual: boolean) => ({
      ...tinyTokenizer(words),
      added_tokens: [],
      normalizer: null,
      pre_tokenizer: {
        type: "Sequence",
        pretokenizers: [
          { type: "Digits", individual_digits: individual },
          { type: "ByteLevel", add_prefix_space: false, use_regex: true },
        ],
      },
      model: { type: "BPE", vocab, merges: ["\u0120 \u00c2", "1 2", "\u0120 1"] },
    });
    const ids = (individual: boolean, text: string) => [
      ...new Encoder(json(individual), {}, "tokenizer.json").encode(text),
    ];
    expect(ids(true, "a \u00bd")).toEqual([5, 0, 1, 2]);
    expect(ids(true, "a  12")).toEqual([5, 0, 0, 3, 4]);
    expect(ids(false, "a 12")).toEqual([5, 0, 7]);
  });

  test("no cut is made where it could change the ids", () => {
    const { model } = tinyTokenizer(words);
    expect(cutterOf(model)?.(`${space}the${space}cat`)).toEqual([`${space}the`, space, "cat"]);
    expect(cutterOf({ ...model, type: "Unigram" })).toBeUndefined();
    expect(cutterOf({ ...model, ignore_merges: true })).toBeUndefined();
    expect(cutterOf({ ...model, end_of_word_suffix: "</w>" })).toBeUndefined();
    expect(cutterOf({ ...model, continuing_subword_prefix: "##" })).toBeUndefined();
    expect(cutterOf(null)).toBeUndefined();
  });

  test("merges may be pairs instead of strings", () => {
    const json = tinyTokenizer(words);
    const model = { ...json.model, merges: words.merges };
    expect(pieceIds({ ...json, model }, "the cat")).toEqual(wholeIds(json, "the cat"));
  });
});

test("whether a prompt gets the start token is the tokenizer's choice", () => {
  const json = tinyTokenizer(words);
  const adds = (changes: object, config = {}) =>
    new Encoder({ ...json, ...changes }, config, "tokenizer.json").addsBos;
  expect(adds({})).toBe(true);
  expect(adds({}, { add_bos_token: false })).toBe(false);
  expect(adds({ post_processor: null })).toBe(true);
  expect(adds({ post_processor: null, decoder: { type: "ByteLevel" } })).toBe(false);
  expect(adds({ post_processor: { type: "ByteLevel" } })).toBe(false);
});

test("a tokenizer that the library cannot use is CORRUPT_FILE with its name", () => {
  expect(() => new Encoder({}, {}, "/a/tokenizer.json")).toThrow(/\/a\/tokenizer\.json/);
});

test("an empty text has no tokens", () => {
  expect(pieceIds(tinyTokenizer(words), "")).toEqual([]);
});
