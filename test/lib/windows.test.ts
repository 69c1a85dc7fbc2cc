import { describe, expect, test } from "vitest";

import {
  interleaved,
  leadingWindows,
  shareTokens,
  spreadWindows,
  thinned,
} from "../../lib/windows.js";

const ids = Int32Array.from({ length: 10 }, (_, i) => i + 10);
const lists = (windows: Int32Array[]) => windows.map((window) => [...window]);

describe("leadingWindows", () => {
  test("follow one another, each behind the start token, the rest left out", () => {
    expect(lists(leadingWindows(ids, { bos: 1, context: 4, limit: 64 }))).toEqual([
      [1, 10, 11, 12],
      [1, 13, 14, 15],
      [1, 16, 17, 18],
    ]);
    expect(leadingWindows(ids, { bos: 1, context: 4, limit: 2 })).toHaveLength(2);
    expect(leadingWindows(ids, { bos: 1, context: 12, limit: 2 })).toEqual([]);
  });
});

describe("spreadWindows", () => {
  test("take the budget from all over the text", () => {
    expect(lists(spreadWindows(ids, { bos: 1, context: 3, tokens: 4 }))).toEqual([
      [1, 10, 11],
      [1, 14, 15],
    ]);
  });

  test("take all of a text that is smaller than the budget, without overlap", () => {
    const windows = lists(spreadWindows(ids, { bos: 1, context: 3, tokens: 1000 }));
    expect(windows.flatMap((window) => window.slice(1))).toEqual([...ids]);
  });

  test("of a text shorter than one are one short window; of none, none", () => {
    expect(lists(spreadWindows(ids, { bos: 1, context: 99, tokens: 4 }))).toEqual([[1, ...ids]]);
    expect(spreadWindows(new Int32Array(), { bos: 1, context: 4, tokens: 4 })).toEqual([]);
  });

  test("are at least one, however small the budget", () => {
    expect(spreadWindows(ids, { bos: 1, context: 4, tokens: 1 })).toHaveLength(1);
  });
});

describe("several texts", () => {
  test("share tokens evenly, and the long ones what the short ones leave", () => {
    expect(shareTokens([1000, 10, 1000], 100)).toEqual([45, 10, 45]);
    expect(shareTokens([1000, 0, 30], 90)).toEqual([60, 0, 30]);
    expect(shareTokens([5, 5], 100)).toEqual([5, 5]);
    expect(shareTokens([], 100)).toEqual([]);
  });

  test("are mixed so that the end holds the ends of all", () => {
    expect(interleaved([[1, 2, 3, 4], [], [50, 60]])).toEqual([1, 50, 2, 3, 60, 4]);
  });

  test("that give too many windows lose some all over, never all", () => {
    const windows = Array.from({ length: 100 }, (_, i) => Int32Array.of(1, i, i));
    expect(lists(thinned(windows, 200))).toHaveLength(100);
    const few = thinned(windows, 20).map((window) => window[1]);
    expect(few).toHaveLength(10);
    expect(few.at(-1)).toBeGreaterThanOrEqual(90);
    expect(thinned(windows, 1)).toHaveLength(1);
  });
});
