/**
 * A llama2.c `tokenizer.bin` as the tokenizer.json that Hugging Face's tools read. tokenizer.bin
 * keeps a sentencepiece vocabulary as pieces with scores and no merges; the merges are all ways to
 * join two pieces into a third, best score first, which is what llama2.c's encoder does by search.
 */
import { ModelError } from "./errors.js";

/** Ids 0 to 2 are marks, the next 256 the bytes, in every llama2.c vocabulary. */
const marks = ["<unk>", "<s>", "</s>"] as const;
const firstByte = marks.length;
const firstPiece = firstByte + 256;
// tokenizer.bin spells a space where sentencepiece has U+2581.
const space = "\u2581";

interface Piece {
  bytes: Uint8Array;
  score: number;
}

/**
 * Converts the contents of `file`, a tokenizer.bin of `vocabSize` pieces.
 * @throws ModelError CORRUPT_FILE
 */
export function llama2cTokenizer(file: string, contents: Buffer, vocabSize: number): object {
  const pieces = readPieces(file, contents, vocabSize);
  const names = pieces.map(({ bytes }, id) => pieceName(file, bytes, id));
  const vocab = new Map(names.map((name, id) => [name, id]));
  if (vocab.size !== names.length) {
    const twice = names.find((name, id) => vocab.get(name) !== id) ?? "";
    throw corrupt(file, `holds the piece ${JSON.stringify(twice)} twice`, "distinct pieces", twice);
  }
  return tokenizerJson(vocab, mergesOf(names, pieces, vocab));
}

/** Layout: i32 longest piece, then per piece f32 score | i32 bytes | the bytes. Little endian. */
function readPieces(file: string, contents: Buffer, vocabSize: number): Piece[] {
  const pieces: Piece[] = [];
  let at = 4;
  for (let id = 0; id < vocabSize; id++) {
    if (at + 8 > contents.length) {
      throw corrupt(file, "ends too early", `${vocabSize} pieces`, `${id}`);
    }
    const score = contents.readFloatLE(at);
    const length = contents.readInt32LE(at + 4);
    at += 8;
    if (length < 0 || length > contents.length - at) {
      throw corrupt(
        file,
        `has a bad length at piece ${id}`,
        `0 to ${contents.length - at}`,
        `${length}`,
      );
    }
    if (Number.isNaN(score))
      throw corrupt(file, `has a bad score at piece ${id}`, "a number", "NaN");
    pieces.push({ bytes: contents.subarray(at, at + length), score });
    at += length;
  }
  if (at !== contents.length) {
    throw corrupt(file, "does not fit its model", `${at} bytes`, `${contents.length} bytes`);
  }
  return pieces;
}

function pieceName(file: string, bytes: Uint8Array, id: number): string {
  const mark = marks[id];
  if (mark !== undefined) return mark;
  if (id < firstPiece) return `<0x${hex(id - firstByte)}>`;
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })
      .decode(bytes)
      .replaceAll(" ", space);
  } catch {
    throw corrupt(
      file,
      `has a piece ${id} that is not UTF-8`,
      "UTF-8",
      Buffer.from(bytes).toString("hex"),
    );
  }
}

function hex(byte: number): string {
  return byte.toString(16).toUpperCase().padStart(2, "0");
}

function mergesOf(names: readonly string[], pieces: readonly Piece[], vocab: Map<string, number>) {
  const merges: { left: string; right: string; score: number }[] = [];
  for (let id = firstPiece; id < names.length; id++) {
    const name = names[id] ?? "";
    const score = pieces[id]?.score ?? 0;
    const ways: { left: number; right: number }[] = [];
    for (let k = 1; k < name.length; k++) {
      const left = vocab.get(name.slice(0, k));
      const right = vocab.get(name.slice(k));
      if (left !== undefined && right !== undefined) ways.push({ left, right });
    }
    ways.sort((a, b) => a.left - b.left || a.right - b.right);
    for (const way of ways) {
      merges.push({ left: names[way.left] ?? "", right: names[way.right] ?? "", score });
    }
  }
  // The sort is stable, so that pieces of equal score keep the order of their ids.
  return merges.sort((a, b) => b.score - a.score).map(({ left, right }) => [left, right]);
}

function tokenizerJson(vocab: Map<string, number>, merges: string[][]): object {
  const special = (content: string, id: number) => ({
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  });
  const spaceToMark = { type: "Replace", pattern: { String: " " }, content: space };
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: marks.map(special),
    normalizer: {
      type: "Sequence",
      normalizers: [{ type: "Prepend", prepend: space }, spaceToMark],
    },
    pre_tokenizer: null,
    post_processor: {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      pair: [
        { SpecialToken: { id: "<s>", type_id: 0 } },
        { Sequence: { id: "A", type_id: 0 } },
        { SpecialToken: { id: "<s>", type_id: 1 } },
        { Sequence: { id: "B", type_id: 1 } },
      ],
      special_tokens: { "<s>": { id: "<s>", ids: [1], tokens: ["<s>"] } },
    },
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: space }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        { type: "Strip", content: " ", start: 1, stop: 0 },
      ],
    },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: marks[0],
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: true,
      byte_fallback: true,
      ignore_merges: false,
      vocab: Object.fromEntries(vocab),
      merges: merges.map((pair) => pair.join(" ")),
    },
  };
}

function corrupt(file: string, what: string, expected: string, actual: string): ModelError {
  return new ModelError("CORRUPT_FILE", `${file} ${what}: expected ${expected}, found ${actual}`, {
    details: { file, expected, actual },
  });
}
