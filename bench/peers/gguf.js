/**
 * Writes a GGUF model of a true shape with random blocks, for a peer to run: valid bytes in the
 * type asked for, embeddings and head in Q4_0 (4.5 bits, as subbit's int4), norms of ones. Blocks
 * repeat after a megabyte, which no kernel can notice.
 */
import { randomFillSync } from "node:crypto";
import { closeSync, openSync, renameSync, writeSync } from "node:fs";

/**
 * A type: its number in GGUF, weights and bytes of a block, where the half scale lies in it, and
 * the root mean square of a random code.
 */
export const ggmlTypes = /** @type {const} */ ({
  F32: { id: 0, weights: 1, bytes: 4, scaleAt: -1, rms: 1 },
  Q4_0: { id: 2, weights: 32, bytes: 18, scaleAt: 0, rms: 4.64 },
  Q1_0: { id: 41, weights: 128, bytes: 18, scaleAt: 0, rms: 1 },
  TQ2_0: { id: 35, weights: 256, bytes: 66, scaleAt: 64, rms: 1.22 },
});
/** @typedef {keyof typeof ggmlTypes} GgmlType */

/**
 * @typedef {{ name: string, type: GgmlType, rows: number, cols: number, deviation: number }} Tensor
 * @typedef {Readonly<Record<string, unknown>>} Config a Hugging Face config
 */

/** @param {Config} config @param {string} name */
function size(config, name) {
  const value = config[name];
  if (typeof value !== "number") throw new Error(`the config has no ${name}`);
  return value;
}

/**
 * Why `type` cannot hold a model of this shape, or undefined.
 * @param {Config} config @param {GgmlType} type
 */
export function obstacle(config, type) {
  const { weights } = ggmlTypes[type];
  const odd = ["hidden_size", "intermediate_size"].find((name) => size(config, name) % weights);
  return odd && `${type} has blocks of ${weights}, ${odd} is ${size(config, odd)}`;
}

/**
 * Every tensor, in file order.
 * @param {Config} config @param {GgmlType} type
 * @returns {Tensor[]}
 */
export function tensorsOf(config, type) {
  const hidden = size(config, "hidden_size");
  const inner = size(config, "intermediate_size");
  const layers = size(config, "num_hidden_layers");
  const vocab = size(config, "vocab_size");
  const kv = (hidden / size(config, "num_attention_heads")) * size(config, "num_key_value_heads");
  /** @type {(name: string, rows: number, cols: number, gain?: number) => Tensor} */
  const matrix = (name, rows, cols, gain = 1) => ({
    ...{ name: `${name}.weight`, type, rows, cols },
    deviation: gain / Math.sqrt(cols),
  });
  /** @type {(name: string) => Tensor} */
  const norm = (name) => ({
    ...{ name: `${name}.weight`, type: "F32", rows: 1, cols: hidden, deviation: 1 },
  });
  const tied = config["tie_word_embeddings"] === true;
  const residual = 1 / Math.sqrt(2 * layers);
  const blocks = Array.from({ length: layers }, (_, i) => `blk.${i}.`).flatMap((block) => [
    norm(`${block}attn_norm`),
    matrix(`${block}attn_q`, hidden, hidden),
    matrix(`${block}attn_k`, kv, hidden),
    matrix(`${block}attn_v`, kv, hidden),
    matrix(`${block}attn_output`, hidden, hidden, residual),
    norm(`${block}ffn_norm`),
    matrix(`${block}ffn_gate`, inner, hidden),
    matrix(`${block}ffn_up`, inner, hidden),
    matrix(`${block}ffn_down`, hidden, inner, residual),
  ]);
  return [
    { ...matrix("token_embd", vocab, hidden, 2.5), type: "Q4_0" },
    ...blocks,
    norm("output_norm"),
    .../** @type {Tensor[]} */ (
      tied ? [] : [{ ...matrix("output", vocab, hidden, 2.5), type: "Q4_0" }]
    ),
  ];
}

/** @param {Tensor} tensor */
export function bytesOf({ type, rows, cols }) {
  const { weights, bytes } = ggmlTypes[type];
  return (rows * cols * bytes) / weights;
}

const alignment = 32;
const aligned = (/** @type {number} */ bytes) => Math.ceil(bytes / alignment) * alignment;

/** The pieces of a GGUF header: little endian, strings and arrays behind their lengths. */
const pieces = {
  u32(/** @type {number} */ value) {
    const out = Buffer.alloc(4);
    out.writeUInt32LE(value);
    return out;
  },
  u64(/** @type {number} */ value) {
    const out = Buffer.alloc(8);
    out.writeBigUInt64LE(BigInt(value));
    return out;
  },
  f32(/** @type {number} */ value) {
    const out = Buffer.alloc(4);
    out.writeFloatLE(value);
    return out;
  },
  text(/** @type {string} */ value) {
    const bytes = Buffer.from(value);
    return Buffer.concat([pieces.u64(bytes.length), bytes]);
  },
};
const valueTypes = { u32: 4, i32: 5, f32: 6, text: 8, array: 9 };

/** @param {Config} config @param {string} name */
function metadata(config, name) {
  const vocab = size(config, "vocab_size");
  const hidden = size(config, "hidden_size");
  const heads = size(config, "num_attention_heads");
  /** @type {(key: string, type: "u32" | "f32" | "text", value: number | string) => Buffer} */
  const entry = (key, type, value) =>
    Buffer.concat([
      pieces.text(key),
      pieces.u32(valueTypes[type]),
      type === "text" ? pieces.text(String(value)) : pieces[type](Number(value)),
    ]);
  /** @type {(key: string, type: "i32" | "f32" | "text", all: Buffer[]) => Buffer} */
  const list = (key, type, all) =>
    Buffer.concat([
      ...[pieces.text(key), pieces.u32(valueTypes.array), pieces.u32(valueTypes[type])],
      ...[pieces.u64(all.length), ...all],
    ]);
  const ids = Array.from({ length: vocab }, (_, id) => id);
  // In the manner of Llama's vocabularies: three marks, the bytes, then pieces.
  const hex = (/** @type {number} */ byte) => byte.toString(16).toUpperCase().padStart(2, "0");
  const piece = (/** @type {number} */ id) =>
    ["<unk>", "<s>", "</s>"][id] ?? (id < 259 ? `<0x${hex(id - 3)}>` : `p${id}`);
  const kind = (/** @type {number} */ id) => [2, 3, 3][id] ?? (id < 259 ? 6 : 1);
  const tokenizer = "tokenizer.ggml.";
  return [
    entry("general.architecture", "text", "llama"),
    entry("general.name", "text", name),
    entry("general.alignment", "u32", alignment),
    entry("llama.vocab_size", "u32", vocab),
    entry("llama.context_length", "u32", size(config, "max_position_embeddings")),
    entry("llama.embedding_length", "u32", hidden),
    entry("llama.block_count", "u32", size(config, "num_hidden_layers")),
    entry("llama.feed_forward_length", "u32", size(config, "intermediate_size")),
    entry("llama.rope.dimension_count", "u32", hidden / heads),
    entry("llama.rope.freq_base", "f32", Number(config["rope_theta"] ?? 10_000)),
    entry("llama.attention.head_count", "u32", heads),
    entry("llama.attention.head_count_kv", "u32", size(config, "num_key_value_heads")),
    entry("llama.attention.layer_norm_rms_epsilon", "f32", Number(config["rms_norm_eps"])),
    entry(`${tokenizer}model`, "text", "llama"),
    list(
      `${tokenizer}tokens`,
      "text",
      ids.map((id) => pieces.text(piece(id))),
    ),
    list(
      `${tokenizer}scores`,
      "f32",
      ids.map((id) => pieces.f32(-id)),
    ),
    list(
      `${tokenizer}token_type`,
      "i32",
      ids.map((id) => pieces.u32(kind(id))),
    ),
    entry(`${tokenizer}bos_token_id`, "u32", 1),
    entry(`${tokenizer}eos_token_id`, "u32", 2),
  ];
}

/** The bits of a half, for positive numbers that are normal halves. @param {number} value */
export function halfBits(value) {
  const exponent = Math.floor(Math.log2(value));
  if (exponent < -14 || exponent > 15) throw new RangeError(`${value} is no normal half`);
  // A mantissa that rounds up to two carries into the exponent, as it should.
  return ((exponent + 15) << 10) + Math.round((value / 2 ** exponent - 1) * 1024);
}

/** About a megabyte of random blocks of a tensor's type. @param {Tensor} tensor */
function randomBlocks({ type, deviation }) {
  const { bytes, scaleAt, rms } = ggmlTypes[type];
  const blocks = Buffer.alloc(Math.ceil(2 ** 20 / bytes) * bytes);
  if (scaleAt < 0) {
    for (let at = 0; at < blocks.length; at += 4) blocks.writeFloatLE(deviation, at);
    return blocks;
  }
  randomFillSync(blocks);
  const scale = halfBits(deviation / rms);
  for (let at = scaleAt; at < blocks.length; at += bytes) blocks.writeUInt16LE(scale, at);
  return blocks;
}

/**
 * Writes the file and returns what decoding a token reads of it: all but the embeddings, unless
 * they are the head as well.
 * @param {string} file @param {Config} config @param {GgmlType} type
 */
export function writeGguf(file, config, type) {
  const tensors = tensorsOf(config, type);
  const entries = metadata(config, `random ${type}`);
  /** @type {Buffer[]} */
  const header = [Buffer.from("GGUF"), pieces.u32(3), pieces.u64(tensors.length)];
  header.push(pieces.u64(entries.length), ...entries);
  let offset = 0;
  for (const tensor of tensors) {
    header.push(pieces.text(tensor.name));
    // The fast dimension first.
    const dims = tensor.rows === 1 ? [tensor.cols] : [tensor.cols, tensor.rows];
    header.push(pieces.u32(dims.length), ...dims.map(pieces.u64));
    header.push(pieces.u32(ggmlTypes[tensor.type].id), pieces.u64(offset));
    offset += aligned(bytesOf(tensor));
  }
  const bytes = Buffer.concat(header);
  const out = openSync(`${file}.partial`, "w");
  try {
    writeSync(out, bytes);
    writeSync(out, Buffer.alloc(aligned(bytes.length) - bytes.length));
    for (const tensor of tensors) {
      const blocks = randomBlocks(tensor);
      const length = bytesOf(tensor);
      for (let done = 0; done < length; done += blocks.length) {
        writeSync(out, blocks, 0, Math.min(blocks.length, length - done));
      }
      writeSync(out, Buffer.alloc(aligned(length) - length));
    }
  } finally {
    closeSync(out);
  }
  renameSync(`${file}.partial`, file);
  const tied = tensors.every(({ name }) => name !== "output.weight");
  const read = tensors.filter(({ name }) => tied || name !== "token_embd.weight");
  return read.reduce((sum, tensor) => sum + bytesOf(tensor), 0);
}
