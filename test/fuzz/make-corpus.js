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
