import { describe, expect, test } from "vitest";

import { logLikelihood, parseQuestions, piqa } from "../../bench/quality/piqa.js";

/** One token a byte; a byte's log-probability is minus its distance from its predecessor. */
const model = {
  tokenizer: {
    encode: (text: string, { bos = false } = {}) =>
      Promise.resolve(Int32Array.of(...(bos ? [0] : []), ...Buffer.from(text))),
  },
  score: (input: string | readonly number[]) => {
    const tokens = [...input].map(Number);
    const logprobs = Float32Array.from(
      tokens.slice(1),
      (token, i) => -Math.abs(token - (tokens[i] ?? 0)),
    );
    return Promise.resolve({ tokens, logprobs, perplexity: 1 });
  },
};

describe("piqa", () => {
  test("counts the continuation's tokens, all of them and no others", async () => {
    // "a" to "c" and "c" to "b"; whatever the prompt costs does not matter.
    expect(await logLikelihood(model, "zza", "cb", false)).toBe(-3);
    expect(await logLikelihood(model, "zza", "cb", true)).toBe(-3);
  });

  test("compares solutions plain and per byte", async () => {
    // The space behind ":" costs 26, "!" then 1 and "~" 94; another "!" is free, a last quote
    // costs 1: less likely than "!" alone, and likelier per byte.
    const goal = "g";
    const questions = [
      { goal, sol1: "!", sol2: "~", label: 0 },
      { goal, sol1: "~", sol2: "!", label: 1 },
      { goal, sol1: "!", sol2: '!!!!"', label: 1 },
    ];
    const result = await piqa(model, questions, { bos: true });
    expect(result).toMatchObject({ questions: 3, accuracyNormalized: 1 });
    expect(result.accuracy).toBeCloseTo(2 / 3);
  });

  test("reads one question a line", () => {
    const line = JSON.stringify({ goal: "g", sol1: "a", sol2: "b", label: 1 });
    expect(parseQuestions(`${line}\n${line}\n`)).toHaveLength(2);
  });
});
