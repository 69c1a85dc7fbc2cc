import { describe, expect, test } from "vitest";

import { bar, byteSize, duration, grouped, progressText, table } from "../../lib/cli/terminal.js";

describe("a progress line", () => {
  const event = { phase: "fit", loaded: 5, total: 10, fraction: 0.5, detail: "layers.2.mlp" };

  test("shows phase, bar, percent and what is at hand", () => {
    expect(progressText(event, 80)).toBe(
      `fit       [${"#".repeat(12)}${"-".repeat(12)}]  50 % layers.2.mlp`,
    );
    expect(progressText({ phase: "tokenize", loaded: 0 }, 80)).toBe("tokenize");
  });

  test("never wraps, however narrow the terminal", () => {
    for (const columns of [1, 10, 40, 80]) {
      expect(progressText(event, columns).length).toBeLessThan(columns);
    }
  });

  test("lets no name from a file speak to the terminal", () => {
    const detail = "\u001b[2Jmodel\u001b]0;title\u0007";
    expect(progressText({ ...event, detail }, 200)).not.toContain("\u001b");
  });
});

test("a table sets figures to the right and words to the left", () => {
  expect(
    table([
      ["name", "bytes"],
      ["a", "1,024"],
      ["long", "7"],
    ]),
  ).toBe("name  bytes\na     1,024\nlong      7");
});

test("a bar is as long as its share, to an eighth of a character, and never longer", () => {
  expect(bar(0.5, 4)).toBe("██");
  expect(bar(1 / 32, 4)).toBe("▏");
  expect(bar(0.9, 1)).toBe("▉");
  expect([bar(0, 4), bar(-1, 4), bar(7, 2), bar(1, 3)]).toEqual(["", "", "██", "███"]);
});

test("durations are readable", () => {
  const shown = [0, 9_940, 59_000, 61_000, 599_000, 600_000, 3_599_000, 10_230_000].map(duration);
  expect(shown).toEqual([
    ...["0.0 s", "9.9 s", "59 s", "1 min 1 s", "9 min 59 s", "10 min", "1 h 0 min", "2 h 51 min"],
  ]);
});

test("figures are readable", () => {
  expect(grouped(1234567)).toBe("1,234,567");
  expect([0, 1023, 1024, 1536, 5 * 2 ** 30].map(byteSize)).toEqual([
    "0 B",
    "1023 B",
    "1.0 KiB",
    "1.5 KiB",
    "5.0 GiB",
  ]);
});
