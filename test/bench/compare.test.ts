import { describe, expect, test } from "vitest";

import { asTable, splitText } from "../../bench/quality/compare.js";
import { presets, trainedTokens } from "../../bench/quality/presets.js";

describe("the comparison of recipes", () => {
  const budget = { tokens: 500_000, linearsPerBlock: 4, windowTokens: 256 };
  const untrained = ["fit only", "nanoquant, fit only"];
  const partly = ["nanoquant, fit + absorb", "nanoquant, no distillation"];

  test("gives every whole recipe the same tokens", () => {
    for (const [name, preset] of Object.entries(presets)) {
      const tokens = trainedTokens(preset.stages(budget), budget);
      if (untrained.includes(name)) expect(tokens, name).toBe(0);
      else if (partly.includes(name)) expect(tokens, name).toBeLessThan(0.95 * budget.tokens);
      // Rounding costs an update at most: of 2,048 tokens, or of 1,024 for each of four linears.
      else expect(Math.abs(tokens - budget.tokens), name).toBeLessThan(4 * 1024);
    }
  });

  test("leaves no count of a stage to the effort, or tokens would not be what is said", () => {
    for (const [name, preset] of Object.entries(presets)) {
      const stages = preset.stages(budget);
      for (const stage of [stages.absorb, stages.refine, stages.block, stages.model]) {
        expect(stage?.updates, name).toBeDefined();
        if (stage?.updates) expect(stage.tokens, name).toBeDefined();
      }
    }
  });

  test("never trains on a window that it judges on", () => {
    const ids = Int32Array.from({ length: 255 * 40 + 17 }, (_, i) => i);
    const { judged, training } = splitText(ids, { bos: -1, judged: 7, tokens: 255 * 20 });
    expect(judged).toHaveLength(7);
    expect(training).toHaveLength(20);
    const seen = new Set(judged.flatMap((window) => [...window].slice(1)));
    expect(seen.size).toBe(7 * 255);
    for (const window of training) {
      expect(window[0]).toBe(-1);
      expect([...window].some((id) => seen.has(id))).toBe(false);
    }
  });

  test("prints one line a recipe", () => {
    const row = { preset: "ours", bits: 0.7973, kl: 0.51, perplexity: 8.2, top1: 0.625 };
    const table = asTable([{ ...row, tokens: 400_000, seconds: 61.4 }]);
    expect(table.split("\n")[2]).toBe("| ours | 0.7973 | 0.5100 | 8.20 | 62.5 % | 400,000 | 61 |");
  });
});
