/**
 * node scripts/metal/predict.js: what Llama-2-7B at 0.8 bits should decode at on Apple's chips, as
 * a table for docs/metal.md. Nothing here has run on one: bytes and operations are counted, rates
 * and bandwidths are published, and the efficiency is a guess that says so.
 */

/** Name, GPU cores, GHz, GB/s, and the part of the roofline that public kernels reach there. */
const chips = [
  { name: "M1", cores: 8, ghz: 1.278, bandwidth: 68, reached: 0.72 },
  { name: "M1 Pro", cores: 16, ghz: 1.296, bandwidth: 200, reached: 0.65 },
  { name: "M1 Max", cores: 32, ghz: 1.296, bandwidth: 400, reached: 0.55 },
  { name: "M2", cores: 10, ghz: 1.398, bandwidth: 100, reached: 0.72 },
  { name: "M2 Max", cores: 38, ghz: 1.398, bandwidth: 400, reached: 0.55 },
  { name: "M3", cores: 10, ghz: 1.398, bandwidth: 100, reached: 0.72 },
  { name: "M3 Max", cores: 40, ghz: 1.398, bandwidth: 400, reached: 0.55 },
  { name: "M4", cores: 10, ghz: 1.47, bandwidth: 120, reached: 0.72 },
  { name: "M4 Pro", cores: 20, ghz: 1.58, bandwidth: 273, reached: 0.65 },
  { name: "M4 Max", cores: 40, ghz: 1.58, bandwidth: 546, reached: 0.55 },
  { name: "M5", cores: 10, ghz: 1.58, bandwidth: 153, reached: 0.72, quickMatrices: true },
];

const layers = 32;
const token = {
  bodyBytes: 642e6, // packed: qkv r 2432, o 1600, gate and up 2720, down 2368
  headBytes: 32000 * 4096 * (4.5 / 8), // int4, a half scale for 64 columns
  cacheBytes: 2 * layers * 4096 * 2 * 128, // half, at 128 tokens of context
  /** Counted by npm run test:metal: K1 between 1.14 (4096 columns) and 1.21 (1600). */
  slotsPerBit: 1.17,
  /** K2's, by the same count. */
  selectSlotsPerBit: 3.3,
  headSlots: 32000 * 4096 * 8, // shift, mask, subtraction, conversion, multiply-add
  dispatches: 9 * layers + 3, // embedding, first norm, head
};
/**
 * A prompt's chunk: the head is asked for its last token alone. Slots of one sign for one token,
 * counted by npm run test:metal, and dispatches of a layer: by simdgroup_matrix V, rank_codes, U
 * and finish_terms for each of four linears, two norms, silu, codes of the mixed heads, two
 * rotations, the cache and attention.
 */
const prompt = {
  tokens: 128,
  columns: { slots: 1.17, tokens: 4, dispatches: 9 },
  matrices: { slots: 1.64, quickSlots: 0.7, tokens: 32, dispatches: 24 },
  /** Scores and weighted values of 128 tokens, by matrices: 2 * 4096 products a position. */
  attentionSlots: layers * 128 * 4096 * 1.3,
};
const dispatchSeconds = 2e-6;

/**
 * @param {typeof chips[number]} chip
 * @param {number} bytes
 * @param {number} slots
 */
function work(chip, bytes, slots) {
  const lanes = chip.cores * 128 * chip.ghz * 1e9;
  return Math.max(bytes / (0.85 * chip.bandwidth * 1e9), slots / (0.9 * lanes));
}

/**
 * @param {typeof chips[number]} chip
 * @param {number} slotsPerBit
 */
function seconds(chip, slotsPerBit) {
  const bytes = token.bodyBytes + token.headBytes + token.cacheBytes;
  const slots = 8 * token.bodyBytes * slotsPerBit + token.headSlots;
  return work(chip, bytes, slots) + token.dispatches * dispatchSeconds;
}

/**
 * Tokens a second of a prompt, as far as public kernels come.
 * @param {typeof chips[number]} chip
 * @param {"columns" | "matrices"} way
 */
function promptSpeed(chip, way) {
  const { tokens, dispatches } = prompt[way];
  const slots =
    way === "matrices" && chip.quickMatrices ? prompt.matrices.quickSlots : prompt[way].slots;
  const bytes = (token.bodyBytes * prompt.tokens) / tokens + token.headBytes;
  const all =
    prompt.tokens * (8 * token.bodyBytes * slots + prompt.attentionSlots) + token.headSlots;
  const time = work(chip, bytes, all) + (dispatches * layers + 3) * dispatchSeconds;
  return (prompt.tokens * chip.reached) / time;
}

const bytes = token.bodyBytes + token.headBytes + token.cacheBytes;
console.log(`bytes per token: ${(bytes / 1e6).toFixed(0)} MB; dispatches: ${token.dispatches}\n`);
console.log("| chip | roofline | expected | of the bandwidth | K2 | prompt | by matrices |");
console.log("| --- | --- | --- | --- | --- | --- | --- |");
for (const chip of chips) {
  const roof = 1 / seconds(chip, token.slotsPerBit);
  const expected = roof * chip.reached;
  const share = (expected * bytes) / (chip.bandwidth * 1e9);
  const select = chip.reached / seconds(chip, token.selectSlotsPerBit);
  const [columns, matrices] = /** @type {const} */ (["columns", "matrices"]).map((way) =>
    promptSpeed(chip, way).toFixed(0),
  );
  console.log(
    `| ${chip.name} | ${roof.toFixed(0)} | **${expected.toFixed(0)}** | ` +
      `${(100 * share).toFixed(0)} % | ${select.toFixed(0)} | ${columns} | ${matrices} |`,
  );
}
