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
const dispatchSeconds = 2e-6;

/**
 * @param {typeof chips[number]} chip
 * @param {number} slotsPerBit
 * @param {number} columns tokens that share one load of the body
 */
function seconds(chip, slotsPerBit, columns = 1) {
  const bytes = token.bodyBytes / columns + (token.headBytes + token.cacheBytes) / columns;
  const slots = 8 * token.bodyBytes * slotsPerBit + token.headSlots / columns;
  const lanes = chip.cores * 128 * chip.ghz * 1e9;
  const work = Math.max(bytes / (0.85 * chip.bandwidth * 1e9), slots / (0.9 * lanes));
  return work + (token.dispatches * dispatchSeconds) / columns;
}

const bytes = token.bodyBytes + token.headBytes + token.cacheBytes;
console.log(`bytes per token: ${(bytes / 1e6).toFixed(0)} MB; dispatches: ${token.dispatches}\n`);
console.log("| chip | roofline | expected | of the bandwidth | by select (K2) | prompt |");
console.log("| --- | --- | --- | --- | --- | --- |");
for (const chip of chips) {
  const roof = 1 / seconds(chip, token.slotsPerBit);
  const expected = roof * chip.reached;
  const share = (expected * bytes) / (chip.bandwidth * 1e9);
  const select = chip.reached / seconds(chip, token.selectSlotsPerBit);
  const prompt = chip.reached / seconds(chip, token.slotsPerBit, 4);
  console.log(
    `| ${chip.name} | ${roof.toFixed(0)} | **${expected.toFixed(0)}** | ` +
      `${(100 * share).toFixed(0)} % | ${select.toFixed(0)} | ${prompt.toFixed(0)} |`,
  );
}
