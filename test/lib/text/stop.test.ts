import { describe, expect, test } from "vitest";

import { StopFinder } from "../../../lib/text/stop.js";
import { repeatableRandom } from "../../support/tiny-model.js";

function given(stops: string[], parts: string[]): { parts: string[]; isFound: boolean } {
  const finder = new StopFinder(stops);
  const out = parts.map((part) => finder.push(part));
  if (!finder.isFound) out.push(finder.flush());
  return { parts: out, isFound: finder.isFound };
}

describe("StopFinder", () => {
  test("holds back what may become a stop string, and gives it out when it does not", () => {
    expect(given(["END"], ["a E", "N", "x"]).parts).toEqual(["a ", "", "ENx", ""]);
    expect(given(["END"], ["a E", "N"]).parts).toEqual(["a ", "", "EN"]);
  });

  test("gives out nothing of a stop string that comes in parts, nor of what follows", () => {
    expect(given(["END"], ["a E", "N", "D b", "c"])).toEqual({
      parts: ["a ", "", "", ""],
      isFound: true,
    });
  });

  test("the stop string that is complete first ends the text", () => {
    expect(given(["bcde", "cd"], ["abcdef"]).parts).toEqual(["ab"]);
    expect(given(["cd", "bcd"], ["abcdef"]).parts).toEqual(["a"]);
    expect(given(["aab"], ["aaa", "ab"]).parts.join("")).toBe("aa");
  });

  test("however a text is cut, what comes out is the text up to the first stop string", () => {
    const random = repeatableRandom(7);
    const letters = (count: number) =>
      Array.from({ length: count }, () => "ab"[Math.floor(random() * 2)]).join("");
    for (let round = 0; round < 2000; round++) {
      const text = letters(12);
      const stops = [letters(1 + Math.floor(random() * 4)), letters(2)];
      const parts: string[] = [];
      for (let at = 0; at < text.length; ) {
        const length = 1 + Math.floor(random() * 4);
        parts.push(text.slice(at, at + length));
        at += length;
      }
      let end = text.length;
      for (let upTo = 0; upTo <= text.length && end === text.length; upTo++) {
        const seen = stops.map((stop) => text.slice(0, upTo).indexOf(stop)).filter((at) => at >= 0);
        if (seen.length > 0) end = Math.min(...seen);
      }
      expect(given(stops, [...text]).parts.join(""), `${text} ${stops}`).toBe(text.slice(0, end));
      expect(given(stops, parts).parts.join(""), `${parts} ${stops}`).toBe(text.slice(0, end));
    }
  });
});
