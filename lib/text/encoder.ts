/**
 * Text to token ids, on `@huggingface/tokenizers`. That library merges a whole section at once, and
 * without a pre-tokenizer (Llama 2) a section is the whole text: 18 s for 800 KB. So sections are
 * cut first, only where a cut provably changes nothing, and the pieces, being words that return,
 * come out of the library's own cache.
 *
 * Why a cut is exact: byte-pair encoding only ever joins neighbours that a merge names. If no merge
 * joins a piece that ends in x with one that starts with y, then no token can contain "xy", so what
 * happens left of a cut between x and y never meets what happens right of it. In Llama's vocabulary
 * nothing is joined to a following U+2581, hence every word start is a cut; a vocabulary with
 * pieces across words has fewer cuts and stays exact.
 */
import { Tokenizer } from "@huggingface/tokenizers";

import { ModelError } from "../errors.js";
import { type PieceTable, pieceTable } from "./decoder.js";

type Json = Record<string, unknown>;

interface AddedToken {
  id: number;
  content: string;
  lstrip: boolean;
  rstrip: boolean;
  normalized: boolean;
  special: boolean;
}

/** What is used of the library, whose own types do not resolve under NodeNext. */
interface Library {
  normalizer: { normalize(text: string): string } | null;
  pre_tokenizer: {
    pre_tokenize(text: string, options: { section_index: number }): string[];
  } | null;
  model: { _call(pieces: string[]): string[]; unk_token_id?: number };
  post_processor: object | null;
  encode(
    text: string,
    options: { add_special_tokens: boolean },
  ): { ids: (number | undefined)[]; tokens: string[] };
  token_to_id(token: string): number | undefined;
  get_vocab(): Map<string, number>;
  get_added_tokens_decoder(): Map<number, AddedToken>;
}

export class Encoder {
  readonly #tokenizer: Library;
  readonly #decoder: unknown;
  readonly #added: readonly AddedToken[];
  readonly #cutter: Cutter | undefined;
  /** Added tokens that are found before the text is normalized, longest first. */
  readonly #marks: RegExp | undefined;
  /** Added tokens in normalized form; text that contains one takes the library's own path. */
  readonly #normalizedMarks: readonly string[];
  readonly #needsLibrary: boolean;
  /** Whether this tokenizer puts its start token before a prompt. */
  readonly addsBos: boolean;

  /** @throws ModelError CORRUPT_FILE for a tokenizer that the library cannot make sense of. */
  constructor(json: Json, config: Json, file: string) {
    try {
      this.#tokenizer = new Tokenizer(withUnicodeDigits(json), config);
    } catch (cause) {
      const actual = cause instanceof Error ? cause.message : String(cause);
      throw new ModelError("CORRUPT_FILE", `${file} is not a usable tokenizer: ${actual}`, {
        details: { file, actual },
        cause,
      });
    }
    this.#decoder = json["decoder"];
    this.#added = [...this.#tokenizer.get_added_tokens_decoder().values()];
    this.#cutter = cutterOf(json["model"]);
    const { normalizer } = this.#tokenizer;
    const isFoundLater = ({ normalized }: AddedToken) => normalized && normalizer !== null;
    const contents = this.#added.filter((token) => !isFoundLater(token)).map((t) => t.content);
    this.#marks = alternation(contents);
    this.#normalizedMarks = this.#added
      .filter(isFoundLater)
      .map(({ content }) => normalizer?.normalize(content) ?? content);
    this.#needsLibrary =
      config["remove_space"] === true ||
      config["do_lowercase_and_remove_accent"] === true ||
      this.#added.some(({ lstrip, rstrip }) => lstrip || rstrip);
    this.addsBos = addsBos(this.#tokenizer, json, config);
  }

  /** The table that decodes this tokenizer's ids. */
  pieceTable(): PieceTable {
    // Ids that no token has come as a token `undefined`.
    const pieces = [...this.#tokenizer.get_vocab()].filter(([piece]) => piece !== undefined);
    return pieceTable(this.#decoder, pieces, this.#added);
  }

  /** The ids of `text`, with no start or end token added. Marks in the text become their tokens. */
  encode(text: string): Int32Array {
    if (text.length === 0) return new Int32Array();
    if (this.#needsLibrary) return this.#encodeByLibrary(text);
    const sections = this.#marks ? text.split(this.#marks) : [text];
    const ids: number[] = [];
    for (const [index, section] of sections.entries()) {
      if (section.length === 0) continue;
      // Splitting by a group keeps what separated: every other part is an added token.
      const part = index % 2 === 1 ? [this.#idOf(section)] : this.#encodeSection(section, index);
      if (!part) return this.#encodeByLibrary(text);
      for (const id of part) ids.push(id);
    }
    return Int32Array.from(ids);
  }

  /** Undefined where the section holds an added token that only normalizing brings out. */
  #encodeSection(section: string, index: number): number[] | undefined {
    const { normalizer, pre_tokenizer: preTokenizer, model } = this.#tokenizer;
    const text = normalizer ? normalizer.normalize(section) : section;
    if (this.#normalizedMarks.some((mark) => text.includes(mark))) return undefined;
    const words = preTokenizer
      ? preTokenizer.pre_tokenize(text, { section_index: index })
      : [text].filter((word) => word.length > 0);
    const pieces = this.#cutter ? words.flatMap(this.#cutter) : words;
    // One call for all pieces: the library then fuses neighbouring unknowns as in a whole text.
    return model._call(pieces).map((token) => this.#idOf(token));
  }

  #idOf(token: string): number {
    const id = this.#tokenizer.token_to_id(token) ?? this.#tokenizer.model.unk_token_id;
    if (id !== undefined) return id;
    throw unencodable(token);
  }

  #encodeByLibrary(text: string): Int32Array {
    const { ids, tokens } = this.#tokenizer.encode(text, { add_special_tokens: false });
    const missing = ids.indexOf(undefined);
    if (missing >= 0) throw unencodable(tokens[missing] ?? "");
    return Int32Array.from(ids);
  }
}

function unencodable(token: string): ModelError {
  return new ModelError(
    "CORRUPT_FILE",
    `The tokenizer has neither a token for ${JSON.stringify(token)} nor one for unknown text`,
    { details: { actual: token } },
  );
}

function alternation(words: readonly string[]): RegExp | undefined {
  const sorted = words.filter((word) => word.length > 0).sort((a, b) => b.length - a.length);
  if (sorted.length === 0) return undefined;
  const escaped = sorted.map((word) => word.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"));
  return new RegExp(`(${escaped.join("|")})`);
}

/**
 * The library's Digits splits at ASCII digits alone; the tokenizers it stands for split at all
 * numeric characters, such as \u00BD. A Split by a pattern says so.
 */
function withUnicodeDigits(json: Json): Json {
  const replaced = (step: unknown): unknown => {
    if (typeof step !== "object" || step === null) return step;
    const { type, pretokenizers, individual_digits: isSingle } = step as Json;
    if (Array.isArray(pretokenizers)) {
      return { ...step, pretokenizers: pretokenizers.map(replaced) };
    }
    if (type !== "Digits") return step;
    const pattern = { Regex: isSingle ? "\\p{N}" : "\\p{N}+" };
    return { type: "Split", pattern, behavior: "Isolated", invert: false };
  };
  return { ...json, pre_tokenizer: replaced(json["pre_tokenizer"]) };
}

function addsBos(tokenizer: Library, json: Json, config: Json): boolean {
  if (typeof config["add_bos_token"] === "boolean") return config["add_bos_token"];
  // Sentencepiece's tokenizers put it there by their class, whatever the file says; byte-level
  // ones, such as SmolLM's, only where the file has a post-processor that does.
  if (tokenizer.post_processor === null) {
    return !JSON.stringify(json["decoder"] ?? null).includes('"ByteLevel"');
  }
  return tokenizer.encode("", { add_special_tokens: true }).ids.length > 0;
}

/** Cuts a section into pieces whose ids, one after another, are the ids of the section. */
export type Cutter = (section: string) => string[];

/**
 * The cutter of a tokenizer.json's model; undefined where cuts cannot be proved exact: another
 * model than byte-pair encoding, or marks at word ends, which every piece would get.
 */
export function cutterOf(model: unknown): Cutter | undefined {
  if (typeof model !== "object" || model === null) return undefined;
  const bpe = model as Json;
  const isPlain =
    bpe["type"] === "BPE" &&
    Array.isArray(bpe["merges"]) &&
    !bpe["continuing_subword_prefix"] &&
    !bpe["continuing_subword_suffix"] &&
    !bpe["end_of_word_suffix"] &&
    !bpe["ignore_merges"] &&
    !bpe["dropout"];
  if (!isPlain) return undefined;
  // Two characters are neighbours inside a token only where some merge put them together.
  const joined = new Set<string>();
  for (const merge of bpe["merges"] as unknown[]) {
    const [left, right] = Array.isArray(merge) ? merge : String(merge).split(" ", 2);
    joined.add(`${lastCharacter(String(left))}${firstCharacter(String(right))}`);
  }
  return (section) => cut(section, joined);
}

function cut(section: string, joined: ReadonlySet<string>): string[] {
  const pieces: string[] = [];
  let start = 0;
  let end = 0;
  let previous = "";
  for (const character of section) {
    if (previous !== "" && !joined.has(previous + character)) {
      pieces.push(section.slice(start, end));
      start = end;
    }
    end += character.length;
    previous = character;
  }
  pieces.push(section.slice(start));
  return pieces;
}

function firstCharacter(text: string): string {
  return String.fromCodePoint(text.codePointAt(0) ?? 0);
}

function lastCharacter(text: string): string {
  const low = text.charCodeAt(text.length - 1);
  const isPair = low >= 0xdc00 && low <= 0xdfff && text.length > 1;
  return isPair ? text.slice(-2) : text.slice(-1);
}
