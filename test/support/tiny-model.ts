/**
 * Small models that tests write themselves: a sentencepiece-like tokenizer of a few pieces, and a
 * llama2.c tokenizer.bin. No weights; where weights are needed, test/fixtures/models has them.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export const space = "\u2581";

const made: string[] = [];
const removeAll = () => {
  for (const directory of made.splice(0)) rmSync(directory, { recursive: true, force: true });
};
process.once("exit", removeAll);
// How vitest ends its processes.
process.once("SIGTERM", () => {
  removeAll();
  process.exit();
});

/** A fresh directory that nobody else writes to, gone when the process ends. */
export function temporaryDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), "subbit-test-"));
  made.push(directory);
  return directory;
}

export interface TinyTokenizer {
  /** Pieces of one character, on top of the marks and the 256 bytes. */
  characters: string;
  merges: readonly (readonly [left: string, right: string])[];
  byteFallback?: boolean;
}

export const words: TinyTokenizer = {
  characters: `${space}abcdefghijklmnopqrstuvwxyz.,\n`,
  merges: [
    [space, "t"],
    ["h", "e"],
    [`${space}t`, "he"],
    [space, "a"],
    ["n", "d"],
    [`${space}a`, "nd"],
    [space, space],
    ["c", "a"],
    ["ca", "t"],
  ],
};

/** A tokenizer.json in the manner of Llama 2: ids 0 to 2 are marks, then bytes, then pieces. */
export function tinyTokenizer({ characters, merges, byteFallback = true }: TinyTokenizer) {
  const hex = (byte: number) => byte.toString(16).toUpperCase().padStart(2, "0");
  const bytes = byteFallback ? Array.from({ length: 256 }, (_, byte) => `<0x${hex(byte)}>`) : [];
  const merged = merges.map(([left, right]) => left + right);
  const pieces = [...new Set(["<unk>", "<s>", "</s>", ...bytes, ...characters, ...merged])];
  return {
    version: "1.0",
    added_tokens: ["<unk>", "<s>", "</s>"].map((content, id) => ({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: {
      type: "Sequence",
      normalizers: [
        { type: "Prepend", prepend: space },
        { type: "Replace", pattern: { String: " " }, content: space },
      ],
    },
    pre_tokenizer: null as object | null,
    post_processor: {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      pair: [],
      special_tokens: { "<s>": { id: "<s>", ids: [1], tokens: ["<s>"] } },
    } as object | null,
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: space }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        { type: "Strip", content: " ", start: 1, stop: 0 },
      ],
    } as object | null,
    model: {
      type: "BPE",
      unk_token: "<unk>",
      fuse_unk: true,
      byte_fallback: byteFallback,
      ignore_merges: false,
      vocab: Object.fromEntries(pieces.map((piece, id) => [piece, id])),
      merges: merges.map((pair) => pair.join(" ")),
    },
  };
}

/** Writes a model directory without weights and returns its path. */
export function writeTinyModel(tokenizer: object = tinyTokenizer(words)): string {
  const directory = temporaryDirectory();
  const config = { model_type: "llama", bos_token_id: 1, max_position_embeddings: 16 };
  writeFileSync(join(directory, "config.json"), JSON.stringify(config));
  writeFileSync(join(directory, "tokenizer.json"), JSON.stringify(tokenizer));
  return directory;
}

/** A llama2.c tokenizer.bin of marks, bytes and `pieces`, the first of which scores best. */
export function tokenizerBin(pieces: readonly string[]): Buffer {
  const all = [...Array.from({ length: 259 }, (_, id) => `<${id}>`), ...pieces];
  const parts = all.map((piece, id) => {
    const text = Buffer.from(piece);
    const head = Buffer.alloc(8);
    head.writeFloatLE(id < 259 ? 0 : 258 - id, 0);
    head.writeInt32LE(text.length, 4);
    return Buffer.concat([head, text]);
  });
  return Buffer.concat([Buffer.from([16, 0, 0, 0]), ...parts]);
}

/** Repeatable numbers from 0 up to 1 (xorshift32). */
export function repeatableRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}
