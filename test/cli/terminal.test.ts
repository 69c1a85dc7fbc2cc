import { describe, expect, test } from "vitest";

import { byteSize, grouped, progressText, table } from "../../lib/cli/terminal.js";

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
