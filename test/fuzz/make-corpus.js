/**
 * Writes the fuzzers' seed inputs, test/fuzz/corpus/<target>/: small, valid or nearly so, one for
 * each branch a mutation should start from. An independent writer of every layout it makes.
 * Usage: node test/fuzz/make-corpus.js
 */
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const corpus = join(dirname(fileURLToPath(import.meta.url)), "corpus");

/**
 * @param {string} target
 * @param {Record<string, Buffer | string>} inputs
 */
function write(target, inputs) {
  const folder = join(corpus, target);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  for (const [name, bytes] of Object.entries(inputs)) writeFileSync(join(folder, name), bytes);
}

/**
 * @param {string} header
 * @param {number} dataBytes
 */
function safetensors(header, dataBytes) {
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(Buffer.byteLength(header)));
  return Buffer.concat([length, Buffer.from(header), Buffer.alloc(dataBytes, 0x3f)]);
}

/**
 * @param {string} dtype
 * @param {number[]} shape
 * @param {number} begin
 * @param {number} end
 */
const entry = (dtype, shape, begin, end) => ({ dtype, shape, data_offsets: [begin, end] });

write("json", {
  config: '{"model_type":"llama","hidden_size":64,"rope_scaling":null,"tie_word_embeddings":true}',
  numbers: "[0,-0,1.5,-2e-3,9223372036854775807,-9223372036854775808,1E+10,0.1]",
  strings: '["","\\u00e9\\ud83d\\ude00","\\"\\\\\\/\\b\\f\\n\\r\\t","é€😀","\\u0000"]',
  nested: '{"a":{"b":[{"c":[[[]]]},{}]},"d":[true,false,null]}',
  spaces: ' \t\r\n{ "a" : [ 1 , 2 ] , "b" : { } } \n',
});

write("safetensors", {
  empty: safetensors("{}", 0),
  one: safetensors(JSON.stringify({ w: entry("F32", [2, 3], 0, 24) }), 24),
  padded: safetensors(`${JSON.stringify({ w: entry("BF16", [4], 0, 8) })}      `, 8),
  several: safetensors(
    JSON.stringify({
      __metadata__: { format: "pt", a: "" },
      b: entry("F16", [2, 2], 4, 12),
      a: entry("U8", [4], 0, 4),
      none: entry("I64", [0, 7], 12, 12),
      scalar: entry("F64", [], 12, 20),
    }),
    20,
  ),
  unknown: safetensors(JSON.stringify({ w: entry("F8_E4M3", [1], 0, 1) }), 1),
});

/**
 * @param {number[]} fields dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len
 */
function llama2c(fields) {
  const [dim = 0, hidden = 0, layers = 0, heads = 1, kvHeads = 0, vocab = 0, seq = 0] = fields;
  const headDim = dim / heads;
  const perLayer = 2 * dim + 2 * dim * dim + 2 * kvHeads * headDim * dim + 3 * hidden * dim;
  const embeddings = Math.abs(vocab) * dim * (vocab < 0 ? 2 : 1);
  const floats = embeddings + layers * perLayer + dim + seq * headDim;
  const bytes = Buffer.alloc(28 + 4 * floats, 0x3d);
  for (const [i, field] of fields.entries()) bytes.writeInt32LE(field, 4 * i);
  return bytes;
}

write("llama2c", {
  tied: llama2c([4, 3, 1, 2, 1, 5, 2]),
  untied: llama2c([4, 2, 2, 1, 1, -3, 1]),
  gguf: Buffer.from("GGUF\x03\0\0\0"),
});

const llama = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  hidden_act: "silu",
  hidden_size: 64,
  intermediate_size: 172,
  num_hidden_layers: 2,
  num_attention_heads: 8,
  num_key_value_heads: 4,
  vocab_size: 512,
  max_position_embeddings: 512,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  bos_token_id: 1,
  eos_token_id: 2,
};

/** @param {Record<string, unknown>} changes */
const config = (changes) => JSON.stringify({ ...llama, ...changes });

write("config", {
  llama: config({}),
  small: JSON.stringify({
    model_type: "llama",
    hidden_size: 2,
    intermediate_size: 1,
    num_hidden_layers: 1,
    num_attention_heads: 1,
    vocab_size: 1,
  }),
  biased: config({ attention_bias: true, mlp_bias: true, tie_word_embeddings: true, head_dim: 8 }),
  mistral: config({ model_type: "mistral", sliding_window: 128, eos_token_id: [2, 3] }),
  linear: config({ rope_scaling: { type: "linear", factor: 2.5 } }),
  llama3: config({
    rope_scaling: {
      rope_type: "llama3",
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 8192,
    },
  }),
  parameters: config({ rope_parameters: { rope_type: "default", rope_theta: 500000 } }),
  extreme: config({ rope_theta: 5e-324, rms_norm_eps: 1e300 }),
  yarn: config({ rope_scaling: { rope_type: "yarn", factor: 4 } }),
});

const formats = { dense: 0, int4: 1, int8: 2, packed: 3, int2: 4, int3: 5 };

/**
 * @param {number} selector
 * @param {number} rows
 * @param {number} cols
 * @param {Buffer[]} parts
 */
function weight(selector, rows, cols, parts) {
  const prefix = Buffer.alloc(5);
  prefix.writeUInt8(selector, 0);
  prefix.writeUInt16LE(rows, 1);
  prefix.writeUInt16LE(cols, 3);
  return Buffer.concat([prefix, ...parts]);
}

/** @param {number} count */
const halves = (count) => Buffer.alloc(2 * count, Buffer.from([0x00, 0x74])); // 2^14

/**
 * Zeros up to a multiple of `alignment`.
 * @param {Buffer[]} parts
 * @param {number} alignment
 */
function padded(parts, alignment) {
  const all = Buffer.concat(parts);
  return Buffer.concat([all, Buffer.alloc((alignment - (all.length % alignment)) % alignment)]);
}

/**
 * The words of a sign matrix, every second column +1, padding zero.
 * @param {number} rows
 * @param {number} cols
 */
function signs(rows, cols) {
  const words = Math.ceil(cols / 32);
  const out = Buffer.alloc(16 * Math.ceil(rows / 4) * words);
  for (let row = 0; row < rows; row++) {
    for (let col = 0; col < cols; col += 2) {
      const word = 16 * ((row >> 2) * words + (col >> 5)) + 4 * (row & 3);
      out.writeUInt32LE((out.readUInt32LE(word) | (1 << (col & 31))) >>> 0, word);
    }
  }
  return out;
}

/**
 * @typedef {{ kind: number, flags?: number, rank?: number, width?: number, table?: number,
 *   first?: number, columns: number, words: Buffer[] }} Term
 * @param {number} rows
 * @param {number} cols
 * @param {Term[]} terms
 * @param {number} [flags]
 */
function packed(rows, cols, terms, flags = 0) {
  const head = Buffer.alloc(16 + 16 * terms.length);
  head.write("SBL1");
  head.writeUInt8(terms.length, 4);
  head.writeUInt8(flags, 5);
  head.writeUInt32LE(rows, 8);
  head.writeUInt32LE(cols, 12);
  for (const [i, term] of terms.entries()) {
    const at = 16 + 16 * i;
    head.writeUInt8(term.kind, at);
    head.writeUInt8(term.flags ?? 0, at + 1);
    head.writeUInt16LE(
      term.width ? term.width | ((term.table ?? 0) << 8) : (term.rank ?? 0) / 32,
      at + 2,
    );
    head.writeUInt32LE(term.first ?? 0, at + 4);
    head.writeUInt32LE(term.columns, at + 8);
    head.writeFloatLE(0.001, at + 12);
  }
  const bias = flags & 2 ? [Buffer.alloc(4 * rows, Buffer.from([0, 0, 0x80, 0x3f]))] : [];
  const pre = flags & 1 ? [halves(cols)] : [];
  const mids = terms.filter((term) => term.flags).map((term) => halves(term.rank ?? 0));
  const vectors = padded([head, ...bias, halves(rows), ...pre, ...mids], 32);
  return Buffer.concat([
    vectors,
    padded(
      terms.flatMap((term) => term.words),
      32,
    ),
  ]);
}

/**
 * @param {number} rows
 * @param {number} cols
 * @param {number} flags
 * @returns {Term}
 */
const factored = (rows, cols, flags) => ({
  kind: 3,
  flags,
  rank: 32,
  columns: cols,
  words: [signs(32, cols), signs(rows, 32)],
});

/**
 * @param {number} rows
 * @param {number} cols
 * @param {number} [first]
 * @returns {Term}
 */
const sign = (rows, cols, first = 0) => ({
  kind: 1,
  first,
  columns: cols,
  words: [signs(rows, cols)],
});

/**
 * @param {number} rows
 * @param {number} cols
 * @param {number} [first]
 * @returns {Term}
 */
const code84 = (rows, cols, first = 0) => ({
  kind: 2,
  first,
  columns: cols,
  words: [signs(rows, cols / 2)],
});

/**
 * Index bytes as they lie: the unit of 16 bytes is four of each of four rows. The target has tables
 * of widths 4, 8 and 16 under the numbers 0, 1 and 2.
 * @param {number} rows
 * @param {number} cols
 * @param {{ width: number, first?: number }} options
 * @returns {Term}
 */
function table(rows, cols, { width, first = 0 }) {
  const vectors = Math.ceil(cols / width);
  const words = Math.ceil(vectors / 4);
  const indices = Buffer.alloc(16 * Math.ceil(rows / 4) * words);
  for (let row = 0; row < rows; row++) {
    for (let vector = 0; vector < vectors; vector++) {
      const at = 16 * ((row >> 2) * words + (vector >> 2)) + 4 * (row & 3) + (vector & 3);
      indices.writeUInt8((37 * row + 91 * vector) & 255, at);
    }
  }
  return { kind: 5, width, table: Math.log2(width) - 2, first, columns: cols, words: [indices] };
}

write("packed", {
  sign: weight(formats.packed, 0, 0, [packed(5, 33, [sign(5, 33)])]),
  factored: weight(formats.packed, 0, 0, [packed(33, 64, [factored(33, 64, 0)])]),
  everything: weight(formats.packed, 0, 0, [
    packed(6, 100, [factored(6, 100, 1), sign(6, 64), sign(6, 36, 64)], 3),
  ]),
  code84: weight(formats.packed, 0, 0, [packed(5, 256, [code84(5, 256)])]),
  table: weight(formats.packed, 0, 0, [packed(5, 33, [table(5, 33, { width: 8 })])]),
  mixed: weight(formats.packed, 0, 0, [
    packed(3, 420, [
      table(3, 64, { width: 4 }),
      code84(3, 256, 64),
      table(3, 100, { width: 16, first: 320 }),
    ]),
  ]),
  int4: weight(formats.int4, 2, 64, [padded([Buffer.alloc(64, 0x9a), halves(2)], 128)]),
  int4_narrow: weight(formats.int4, 1, 33, [padded([Buffer.alloc(32, 0x71), halves(2)], 128)]),
  int2: weight(formats.int2, 2, 64, [padded([Buffer.alloc(32, 0x9a), halves(2)], 128)]),
  int2_narrow: weight(formats.int2, 1, 33, [padded([Buffer.alloc(16, 0x71), halves(2)], 128)]),
  int3: weight(formats.int3, 2, 64, [padded([Buffer.alloc(48, 0x9a), halves(2)], 128)]),
  int3_narrow: weight(formats.int3, 1, 33, [padded([Buffer.alloc(24, 0x71), halves(2)], 128)]),
  int8: weight(formats.int8, 2, 64, [padded([Buffer.alloc(128, 0x81), halves(2)], 128)]),
  dense_f32: weight(formats.dense, 3, 2, [Buffer.alloc(24, 0x3f)]),
  dense_f16: weight(formats.dense + 16, 3, 2, [halves(6)]),
  dense_bf16: weight(formats.dense + 32, 3, 2, [Buffer.alloc(12, 0x3f)]),
});
