/**
 * The recipes that `bench/quality` compares, as stages of the engine. All of them train on the same
 * number of tokens: a token read forwards and backwards through the whole model counts as one,
 * through one block of L as 1/L. One update of every block therefore costs its own tokens.
 */

/**
 * @typedef {import("../../dist/native.js").NativeStages} NativeStages
 * @typedef {{
 *   tokens: number,
 *   linearsPerBlock: number,
 *   windowTokens: number,
 * }} Budget what may be spent, on a model with so many linears in a block, in windows of so many
 *   tokens
 * @typedef {{ what: string, forms?: import("subbit").Forms,
 *   stages: (budget: Budget) => NativeStages }} Preset
 */

const off = { updates: 0 };

/**
 * So many updates of about `tokens` tokens each as `total` allows.
 * @param {number} total
 * @param {number} tokens
 * @param {Budget} budget
 * @returns {{ updates: number, tokens: number }}
 */
function updatesFor(total, tokens, { windowTokens }) {
  const whole = Math.max(1, Math.round(tokens / windowTokens)) * windowTokens;
  return { updates: Math.round(total / whole), tokens: whole };
}

/**
 * NanoQuant (arXiv 2602.06694), as its code does it: every matrix the same rate; diagonal weights
 * from inputs and gradients; per linear, what is still dense absorbs error, then ADMM, then
 * straight-through refinement of that linear alone; at last only scales move against the teacher's
 * logits. The published run reads 112 epochs of its text a block (8 to absorb and 8 to refine, for
 * each of 7 linears) and 8 through the whole model; the shares are the same here.
 *
 * What differs: q, k and v are one matrix, and gate and up (which helps it: "-15 % attention
 * error"); its learning rates are per update and for 2,304 updates a linear, ours are scaled so
 * that as many latents can cross zero in the updates there are; norms move with the scales.
 * @param {Budget} budget
 * @returns {NativeStages}
 */
function nanoquant(budget) {
  const perLinear = ((112 / 120) * budget.tokens) / budget.linearsPerBlock / 2;
  const absorb = updatesFor(perLinear, 1024, budget);
  const refine = updatesFor(perLinear, 256, budget);
  return {
    rates: "uniform",
    teacherTokens: 0,
    absorb: { ...absorb, rate: 5e-3 },
    // Latents start within 0.3 of zero. NanoQuant's, of order 0.1, travel 0.01 at the most.
    refine: { ...refine, rate: Math.min(3e-3, (0.1 * 0.3 * 2) / refine.updates), scaleRate: 1e-3 },
    block: off,
    model: {
      ...updatesFor((8 / 120) * budget.tokens, 256, budget),
      rate: 0,
      scaleRate: 1e-3,
      endRate: 0,
    },
  };
}

/**
 * Ours: allocated rates, all linears of a block together, then the whole model, signs and all.
 * @param {Budget} budget
 * @param {number} blockShare of the tokens
 * @returns {NativeStages}
 */
function subbit(budget, blockShare = 0.25) {
  return {
    rates: "allocated",
    absorb: off,
    refine: off,
    block: updatesFor(blockShare * budget.tokens, 512, budget),
    model: updatesFor((1 - blockShare) * budget.tokens, 512, budget),
    teacherTokens: 0,
  };
}

/** @type {Record<string, Preset>} */
export const presets = {
  nanoquant: { what: "the published recipe", stages: nanoquant },
  subbit: { what: "ours", stages: (budget) => subbit(budget) },
  "fit only": {
    what: "ours, nothing trained",
    stages: (budget) => ({ ...subbit(budget), block: off, model: off }),
  },
  "nanoquant, fit only": {
    what: "the published recipe, nothing trained",
    stages: (budget) => ({ ...nanoquant(budget), absorb: off, refine: off, model: off }),
  },
  "nanoquant, fit + absorb": {
    what: "the published recipe without refinement and scale distillation",
    stages: (budget) => ({ ...nanoquant(budget), refine: off, model: off }),
  },
  "nanoquant, no distillation": {
    what: "the published recipe before its last stage",
    stages: (budget) => ({ ...nanoquant(budget), model: off }),
  },
  "no gradient importance": {
    what: "ours, outputs count alike",
    stages: (budget) => ({ ...subbit(budget), gradientWindows: 0 }),
  },
  "measured rates": {
    what: "ours, rates by what an error in each linear was seen to cost",
    stages: (budget) => ({ ...subbit(budget), sensitivityWindows: 8 }),
  },
  "uniform rates": {
    what: "ours, every linear the same rate",
    stages: (budget) => ({ ...subbit(budget), rates: "uniform" }),
  },
  "no block stage": {
    what: "ours, all tokens to the whole model",
    stages: (budget) => subbit(budget, 0),
  },
  "no model stage": {
    what: "ours, all tokens to the blocks",
    stages: (budget) => subbit(budget, 1),
  },
  "ends stand": {
    what: "ours, embedding and head as they were rounded",
    stages: (budget) => {
      const stages = subbit(budget);
      return { ...stages, model: { ...stages.model, endRate: 0 } };
    },
  },
  factored: {
    what: "ours, of two sign matrices",
    forms: "factored",
    stages: (budget) => subbit(budget),
  },
  tables: {
    what: "ours, of learned tables: 4, 8 and 16 columns an index",
    forms: "tables",
    stages: (budget) => subbit(budget),
  },
  codes: {
    what: "ours, of signs, pairs of signs and code84",
    forms: "codes",
    stages: (budget) => subbit(budget),
  },
  mixed: {
    what: "ours, of whichever form a linear is predicted to do best in",
    forms: "mixed",
    stages: (budget) => subbit(budget),
  },
  "signs stand": {
    what: "ours, the whole model's scales and norms only",
    stages: (budget) => {
      const stages = subbit(budget);
      return { ...stages, model: { ...stages.model, rate: 0 } };
    },
  },
};

/** The tokens that `stages` will train on, as counted above; every count in it is explicit.
 * @param {NativeStages} stages
 * @param {Budget} budget
 */
export function trainedTokens({ absorb, refine, block, model }, { linearsPerBlock }) {
  /** @param {import("../../dist/native.js").NativeTraining | undefined} training */
  const of = (training) => (training?.updates ?? 0) * (training?.tokens ?? 0);
  return linearsPerBlock * (of(absorb) + of(refine)) + of(block) + of(model);
}
