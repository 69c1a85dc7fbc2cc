/**
 * Token ids to text, a token at a time. A tokenizer's pieces become a flat table once; decoding is
 * then copying bytes. UTF-8 that is not yet complete is held back, so that no half character is
 * ever given out, and the parts together are exactly the text of the whole.
 *
 * `decode()` is the same code over all ids at once: there is no second decoder to differ from.
 */
import { ModelError } from "../errors.js";

/** What a token is to the decoder. */
export const pieceKind = {
  /** No token has this id. */
  none: 0,
  /** Whole text: whatever bytes are pending before it are complete or broken. */
  text: 1,
  /** Bytes that may be part of a character. */
  bytes: 2,
  /** As `text`, and left out of decoded text: start and end marks. */
  special: 3,
} as const;

/** All pieces of a vocabulary: piece i is `bytes[offsets[i]..offsets[i + 1]]`, UTF-8. */
export interface PieceTable {
  kinds: Uint8Array;
  offsets: Uint32Array;
  bytes: Uint8Array;
  /** How many of `stripContent` the start of a text loses. */
  strip: number;
  /** One character; what sentencepiece put before the first word. */
  stripContent: string;
}

/** Text of one sequence of tokens, bit by bit. */
export class StreamingDecoder {
  readonly #table: PieceTable;
  // ignoreBOM: a byte order mark in the middle of text is text.
  readonly #utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
  #strip: number;

  /** `continuation`: text came before, so a leading space belongs to this text. */
  constructor(table: PieceTable, { continuation }: { continuation: boolean }) {
    this.#table = table;
    this.#strip = continuation ? 0 : table.strip;
  }

  /** The text that is certain once `id` has come; often a word, sometimes nothing. */
  push(id: number): string {
    const { kinds, offsets, bytes } = this.#table;
    const kind = kinds[id] ?? pieceKind.none;
    if (kind === pieceKind.special) return "";
    const piece = bytes.subarray(offsets[id] ?? 0, offsets[id + 1] ?? 0);
    if (kind === pieceKind.bytes) return this.#stripped(this.#utf8.decode(piece, { stream: true }));
    const pending = this.#utf8.decode();
    const text = kind === pieceKind.none ? "\uFFFD" : this.#utf8.decode(piece);
    return this.#stripped(pending + text);
  }

  /** What is still held back: broken UTF-8 becomes U+FFFD. */
  flush(): string {
    return this.#stripped(this.#utf8.decode());
  }

  #stripped(text: string): string {
    let cut = 0;
    while (this.#strip > 0 && cut < text.length) {
      const isStripped = text[cut] === this.#table.stripContent;
      this.#strip = isStripped ? this.#strip - 1 : 0;
      if (isStripped) cut++;
    }
    return cut > 0 ? text.slice(cut) : text;
  }
}

/** The text of all `ids`. */
export function decodeAll(
  table: PieceTable,
  ids: Iterable<number>,
  options: { continuation: boolean },
): string {
  const decoder = new StreamingDecoder(table, options);
  const parts: string[] = [];
  for (const id of ids) parts.push(decoder.push(id));
  return parts.join("") + decoder.flush();
}

interface AddedToken {
  id: number;
  content: string;
  special: boolean;
}

/** The decoder of a tokenizer.json, reduced to what the families in use need. */
interface Recipe {
  family: "fallback" | "byte-level";
  byteFallback: boolean;
  replacements: [from: string, to: string][];
  strip: number;
  stripContent: string;
}

/**
 * The piece table of a tokenizer.json.
 * @throws ModelError UNSUPPORTED_FORMAT for a decoder that is neither sentencepiece's nor
 * byte-level.
 */
export function pieceTable(
  decoder: unknown,
  vocab: Iterable<[piece: string, id: number]>,
  addedTokens: readonly AddedToken[],
): PieceTable {
  const recipe = recipeOf(decoder);
  const pieces: { kind: number; bytes: Uint8Array }[] = [];
  for (const [piece, id] of vocab) pieces[id] = decodedPiece(piece, recipe);
  for (const { id, content, special } of addedTokens) {
    pieces[id] = {
      kind: special ? pieceKind.special : pieceKind.text,
      bytes: utf8.encode(replaced(content, recipe)),
    };
  }
  return { ...packed(pieces), strip: recipe.strip, stripContent: recipe.stripContent };
}

const utf8 = new TextEncoder();

function packed(pieces: readonly ({ kind: number; bytes: Uint8Array } | undefined)[]) {
  let total = 0;
  const kinds = new Uint8Array(pieces.length);
  const offsets = new Uint32Array(pieces.length + 1);
  for (let id = 0; id < pieces.length; id++) {
    kinds[id] = pieces[id]?.kind ?? pieceKind.none;
    offsets[id] = total;
    total += pieces[id]?.bytes.length ?? 0;
  }
  offsets[pieces.length] = total;
  const bytes = new Uint8Array(total);
  for (let id = 0; id < pieces.length; id++) {
    const piece = pieces[id];
    if (piece) bytes.set(piece.bytes, offsets[id]);
  }
  return { kinds, offsets, bytes };
}

function replaced(piece: string, { replacements }: Recipe): string {
  return replacements.reduce((text, [from, to]) => text.replaceAll(from, to), piece);
}

const bytePiece = /^<0x([0-9A-Fa-f]{2})>$/;

function decodedPiece(piece: string, recipe: Recipe): { kind: number; bytes: Uint8Array } {
  if (recipe.family === "byte-level") {
    const bytes = byteLevelBytes(piece);
    return bytes
      ? { kind: pieceKind.bytes, bytes }
      : { kind: pieceKind.text, bytes: utf8.encode(piece) };
  }
  const byte = recipe.byteFallback ? bytePiece.exec(piece)?.[1] : undefined;
  if (byte) return { kind: pieceKind.bytes, bytes: Uint8Array.of(Number.parseInt(byte, 16)) };
  return { kind: pieceKind.text, bytes: utf8.encode(replaced(piece, recipe)) };
}

/**
 * GPT-2's spelling of bytes as visible characters: bytes that Latin-1 shows stand for themselves,
 * the other 68 for U+0100 and up, in order. Undefined if a character stands for no byte.
 */
function byteLevelBytes(piece: string): Uint8Array | undefined {
  const bytes = new Uint8Array(piece.length);
  for (let i = 0; i < piece.length; i++) {
    const byte = byteLevelAlphabet.get(piece.charCodeAt(i));
    if (byte === undefined) return undefined;
    bytes[i] = byte;
  }
  return bytes;
}

const byteLevelAlphabet: ReadonlyMap<number, number> = (() => {
  const isShown = (byte: number) =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
  const alphabet = new Map<number, number>();
  let next = 0x100;
  for (let byte = 0; byte < 256; byte++) alphabet.set(isShown(byte) ? byte : next++, byte);
  return alphabet;
})();

interface DecoderStep {
  type?: unknown;
  decoders?: unknown;
  pattern?: { String?: unknown };
  content?: unknown;
  start?: unknown;
  stop?: unknown;
  replacement?: unknown;
  prepend_scheme?: unknown;
  add_prefix_space?: unknown;
}

function recipeOf(decoder: unknown): Recipe {
  const recipe: Recipe = {
    family: "fallback",
    byteFallback: false,
    replacements: [],
    strip: 0,
    stripContent: " ",
  };
  const steps = stepsOf(decoder);
  const fuse = steps.findIndex(({ type }) => type === "Fuse");
  for (const [index, step] of steps.entries()) addStep(recipe, step, fuse >= 0 && index > fuse);
  return recipe;
}

function stepsOf(decoder: unknown): DecoderStep[] {
  if (typeof decoder !== "object" || decoder === null) throw unsupported("null");
  const step = decoder as DecoderStep;
  if (step.type !== "Sequence") return [step];
  return Array.isArray(step.decoders) ? step.decoders.flatMap(stepsOf) : [];
}

/** One step of a sequence; before Fuse a step sees single pieces, after it the whole text. */
function addStep(recipe: Recipe, step: DecoderStep, isFused: boolean): void {
  const { type, content, start, stop } = step;
  if (type === "ByteLevel") recipe.family = "byte-level";
  else if (type === "ByteFallback" && !isFused) recipe.byteFallback = true;
  else if (type === "Metaspace") {
    const mark = typeof step.replacement === "string" ? step.replacement : "\u2581";
    recipe.replacements.push([mark, " "]);
    const isPrefixed = step.prepend_scheme !== "never" && step.add_prefix_space !== false;
    recipe.strip = isPrefixed ? 1 : 0;
  } else if (type === "Replace" && !isFused && typeof step.pattern?.String === "string") {
    recipe.replacements.push([step.pattern.String, String(content ?? "")]);
  } else if (type === "Strip" && isFused && typeof content === "string" && stop === 0) {
    recipe.strip = typeof start === "number" && start > 0 ? Math.trunc(start) : 0;
    recipe.stripContent = content;
  } else if (type !== "Fuse") throw unsupported(JSON.stringify(step).slice(0, 200));
}

function unsupported(actual: string): ModelError {
  return new ModelError(
    "UNSUPPORTED_FORMAT",
    `The tokenizer's decoder is not supported: ${actual}`,
    {
      details: {
        expected: "ByteLevel, Metaspace, or Replace, ByteFallback, Fuse and Strip",
        actual,
      },
    },
  );
}
