import { Tokenizer as Library } from "@huggingface/tokenizers";
import { describe, expect, test } from "vitest";

import { ModelError } from "../../../lib/errors.js";
import { decodeAll, pieceKind, pieceTable, StreamingDecoder } from "../../../lib/text/decoder.js";
import { Encoder } from "../../../lib/text/encoder.js";
import { repeatableRandom, tinyTokenizer, words } from "../../support/tiny-model.js";

const json = tinyTokenizer(words);
const encoder = new Encoder(json, {}, "tokenizer.json");
const table = encoder.pieceTable();
const firstByte = 3;

/** What a fresh decoder gives out for each id, and at the end. */
function parts(ids: Iterable<number>, continuation = false): string[] {
  const decoder = new StreamingDecoder(table, { continuation });
  const out = [...ids].map((id) => decoder.push(id));
  return [...out, decoder.flush()];
}

const bytesOf = (text: string) => [...Buffer.from(text)].map((byte) => byte + firstByte);

describe("a character that comes byte by byte", () => {
  test("is given out only when its last byte has come", () => {
    expect(parts(bytesOf("\u{1F600}"))).toEqual(["", "", "", "\u{1F600}", ""]);
  });

  test("that never gets its last byte becomes U+FFFD", () => {
    const [a, b] = bytesOf("\u20ac");
    expect(parts([a ?? 0, b ?? 0])).toEqual(["", "", "\uFFFD"]);
    const cat = encoder.encode("cat");
    expect(parts([a ?? 0, ...cat]).join("")).toBe("\uFFFD cat");
  });

  test("survives a mark in the middle, as in the text of the whole", () => {
    const [a, b, c] = bytesOf("\u20ac");
    expect(parts([a ?? 0, 2, b ?? 0, c ?? 0]).join("")).toBe("\u20ac");
  });

  test("a byte order mark is text like any other", () => {
    const bom = bytesOf("\uFEFF");
    expect(parts([...encoder.encode("a"), ...bom, ...bom]).join("")).toBe("a\uFEFF\uFEFF");
  });
});

describe("the space that sentencepiece puts before the first word", () => {
  test("is taken from the start of a text", () => {
    expect(parts(encoder.encode("the cat")).join("")).toBe("the cat");
    expect(parts(encoder.encode(" the cat")).join("")).toBe(" the cat");
  });

  test("is kept in a continuation", () => {
    expect(parts(encoder.encode("the cat"), true).join("")).toBe(" the cat");
  });

  test("is taken even if marks come before it", () => {
    expect(parts([1, ...encoder.encode("the")]).join("")).toBe("the");
  });
});

test("ids that no token has become U+FFFD, marks are left out", () => {
  expect(parts([0, 1, 2]).join("")).toBe("");
  expect(parts([99_999, -1]).join("")).toBe("\uFFFD\uFFFD");
});

test("the parts together are the text of the whole, whatever the ids", () => {
  const random = repeatableRandom(3);
  for (let round = 0; round < 300; round++) {
    const ids = Array.from({ length: 40 }, () => Math.floor(random() * table.kinds.length));
    const streamed = parts(ids);
    expect(streamed.join("")).toBe(decodeAll(table, ids, { continuation: false }));
    for (const part of streamed) expect(part).toBe(part.toWellFormed());
  }
});

test("the text is the library's, for text of every kind", () => {
  const library = new Library(json, {});
  for (const text of ["the cat and the cat", " a  b\n\nc", "\u00e9\u20ac\u{1F600} x", "\n"]) {
    const ids = [...encoder.encode(text)];
    const options = { skip_special_tokens: true, clean_up_tokenization_spaces: false };
    expect(decodeAll(table, ids, { continuation: false })).toBe(library.decode(ids, options));
    expect(decodeAll(table, ids, { continuation: false })).toBe(text);
  }
});

describe("byte-level pieces", () => {
  const vocab: [string, number][] = [
    ["\u0120the", 0],
    ["\u00e2\u0124", 1],
    ["\u00ac", 2],
    ["\u010a", 3],
  ];
  const added = [
    { id: 4, content: "<|end|>", special: true },
    { id: 5, content: "<tool>", special: false },
  ];
  const byteLevel = pieceTable({ type: "ByteLevel" }, vocab, added);

  test("are bytes in visible spelling, joined across tokens", () => {
    const ids = [0, 1, 2, 3, 4, 5];
    expect(decodeAll(byteLevel, ids, { continuation: false })).toBe(" the\u20ac\n<tool>");
  });

  test("are held back where a character is not complete", () => {
    const decoder = new StreamingDecoder(byteLevel, { continuation: false });
    expect([decoder.push(1), decoder.push(2)]).toEqual(["", "\u20ac"]);
  });
});

describe("the decoder of a tokenizer.json", () => {
  test("Metaspace takes the prefix away unless none was put there", () => {
    const vocab: [string, number][] = [["\u2581a", 0]];
    const decoded = (decoder: object) =>
      decodeAll(pieceTable(decoder, vocab, []), [0, 0], { continuation: false });
    expect(decoded({ type: "Metaspace", prepend_scheme: "always" })).toBe("a a");
    expect(decoded({ type: "Metaspace", prepend_scheme: "never" })).toBe(" a a");
  });

  test.each([
    null,
    { type: "CTC" },
    { type: "WordPiece" },
    { type: "Strip", content: " ", start: 1, stop: 0 },
    { type: "Sequence", decoders: [{ type: "Replace", pattern: { Regex: "a" }, content: "b" }] },
    {
      type: "Sequence",
      decoders: [{ type: "Fuse" }, { type: "Strip", content: " ", start: 0, stop: 1 }],
    },
  ])("%j is refused by name", (decoder) => {
    try {
      pieceTable(decoder, [], []);
      expect.unreachable();
    } catch (error) {
      expect(ModelError.isInstance(error) && error.code).toBe("UNSUPPORTED_FORMAT");
    }
  });

  test("ids without a token leave holes, not wrong texts", () => {
    const holey = pieceTable({ type: "ByteFallback" }, [["b", 3]], []);
    expect([...holey.kinds]).toEqual([0, 0, 0, pieceKind.text]);
    expect(decodeAll(holey, [3, 1], { continuation: false })).toBe("b\uFFFD");
  });
});
