/**
 * Issue slots of the sign kernels' inner loops, counted in what clang makes of the shaders' own
 * text (scripts/metal/counted.cc) and weighed by the rates known for Apple's GPUs of the M1 and M2
 * (philipturner/metal-benchmarks): most operations take one slot, the complex pipe (popcount,
 * multiplication, conversion, shifts other than small left ones) four, a shuffle two. The complex
 * pipe works beside the simple one, so a stretch takes the longer of the two.
 */
import { spawnSync } from "node:child_process";
import { join } from "node:path";

import { BuildError } from "../commands.js";
import { root } from "../sources.js";

/** @typedef {{ simple: number, complex: number, loads: number, popcounts: number }} Count */

/**
 * Lines of LLVM's text to operations: first match counts.
 * @type {[RegExp, Partial<Count>][]}
 */
const classes = [
  [/call .*popcount/, { complex: 1, popcounts: 1 }],
  [/call .*simd_shuffle/, { simple: 2 }],
  [/call .*simdgroup_(store|barrier)/, { simple: 2 }],
  [/call .*clamp/, { simple: 2 }],
  [/call .*(max|min|select)/, { simple: 1 }],
  [/ = (mul|uitofp|sitofp|fptosi|fptoui)\b/, { complex: 1 }],
  [/ = shl .* [1-4]$/, {}], // an operand of the addition that follows
  [/ = (shl|lshr|ashr)\b/, { complex: 1 }],
  [/ = xor .* -1$/, {}], // part of the neighbouring bitwise operation: it may be any truth table
  [/ = (and|or|xor|add|sub|fadd|fsub|fmul|select)\b/, { simple: 1 }],
  [/ = (or disjoint)\b/, { simple: 1 }],
  [/ = load .*addrspace\(1\)/, { simple: 1, loads: 1 }],
  [/ store .*addrspace\(3\)/, { simple: 1 }],
  [/ br i1 /, { simple: 1 }],
];

/**
 * @param {string} text of one function
 * @returns {Count}
 */
function countLines(text) {
  const total = { simple: 0, complex: 0, loads: 0, popcounts: 0 };
  for (const line of text.split("\n").map((each) => each.replace(/, !.*$/, ""))) {
    const found = classes.find(([pattern]) => pattern.test(line));
    if (!found) continue;
    for (const [key, value] of Object.entries(found[1])) {
      total[/** @type {keyof Count} */ (key)] += value;
    }
  }
  // A multiplication takes the addition of its product along.
  const products = (text.match(/ = mul\b/g) ?? []).length;
  total.simple -= products;
  return total;
}

/** @param {Count} count */
export function slots({ simple, complex }) {
  return Math.max(4 * complex, simple + complex);
}

/**
 * @param {string} clang
 * @returns {{ unit: Count, chunk: Count, selectUnit: Count, reduction: Count,
 *   tileRows: Count, tileEntries: Count, tileTokens: Count, tableMove: Count,
 *   tableRow: Count }}
 */
export function countSlots(clang) {
  const { status, stdout, stderr } = spawnSync(
    clang,
    [
      ...["-std=c++20", "-O2", "-fno-vectorize", "-fno-slp-vectorize", "-fno-unroll-loops"],
      ...["-mllvm", "-inline-threshold=100000"],
      ...["-S", "-emit-llvm", "-o", "-", "-Wno-unknown-attributes", "-I."],
      ...["-include", join(root, "scripts/metal/address_spaces.h"), "scripts/metal/counted.cc"],
    ],
    { encoding: "utf8", cwd: root, maxBuffer: 1 << 28 },
  );
  if (status !== 0) throw new BuildError(stderr);
  /** @param {RegExp} name */
  const body = (name) => {
    const functions = stdout.split(/^(?=define )/m);
    const found = functions.find((text) => name.test(text.split("\n")[0] ?? ""));
    if (!found) throw new BuildError(`no ${name} in clang's output`);
    return found.split(/^}/m)[0] ?? "";
  };
  // The fast way through load_chunk: no bits dropped. Its block ends where the other begins.
  const chunk = body(/@popcount_chunk\(/);
  const blocks = chunk.split(/\n(?=\d+:)/);
  const fast = `${blocks[0]}\n${blocks[1]}`;
  return {
    unit: countLines(body(/@popcount_unit\(/)),
    selectUnit: countLines(body(/@select_unit\(/)),
    chunk: countLines(fast),
    reduction: countLines(body(/@reduction\(/)),
    tileRows: countLines(body(/@tile_rows\(/)),
    tileEntries: countLines(body(/@tile_entries\(/)),
    tileTokens: countLines(body(/@tile_tokens\(/)),
    tableMove: countLines(body(/@move_entries\(/)),
    tableRow: countLines(body(/@table_row\(/)),
  };
}

/**
 * K1's slots a stored bit: `inner` of the two units alone, `all` with the chunk's load, the words'
 * and the loop's, and with the reduction spread over `chunksOfARow`.
 * @param {ReturnType<typeof countSlots>} counted
 * @param {number} chunksOfARow
 */
export function slotsPerBit(counted, chunksOfARow) {
  const bits = 256; // two units
  // Two loads and their addresses, two comparisons, the counter.
  const loop = { simple: 8, complex: 0, loads: 2, popcounts: 0 };
  const inner = (2 * slots(counted.unit)) / bits;
  const step = (slots(counted.chunk) + slots(loop)) / bits;
  const steps = chunksOfARow / 32; // of a lane, for eight rows
  const reduced = slots(counted.reduction) / (bits * steps);
  return { inner, all: inner + step + reduced };
}

/**
 * Slots of sign_gemm for one product of a sign and a token's code, where simdgroup_matrix does
 * `multiplyAdds` a cycle on a core's 128 lanes (102 are published for the M1 to M4). A thread's
 * share of a step is 64 rows * 32 columns / 128 weights, times up to 32 tokens. `tile` is what a
 * thread does for the weights' tile.
 * @param {ReturnType<typeof countSlots>} counted
 * @param {number} multiplyAdds
 * @param {Count} [tile]
 * @param {number} [tokens] of the call, up to 32: blocks of eight that hold none are left out
 */
export function matrixSlots(counted, multiplyAdds, tile = counted.tileRows, tokens = 32) {
  const weights = 16;
  const blocks = Math.ceil(tokens / 8);
  const products = weights * 8 * blocks * (128 / multiplyAdds);
  // Blocks loaded from threadgroup memory in four steps: half of the simdgroups take the first
  // sixteen tokens, half the others, each four blocks of rows and one for eight tokens.
  const loads = (4 * (4 * Math.ceil(blocks / 2) + blocks)) / 2;
  // Two slots each; two barriers, the watched bound and its maximum.
  const around = 2 * loads + 2 * 4 + 24;
  const unpack = slots(tile) + slots(counted.tileTokens);
  return (products + unpack + around) / (weights * tokens);
}
