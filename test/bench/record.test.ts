import { describe, expect, test } from "vitest";

import { type Figure, machineName, summary, withFigures } from "../../bench/record.js";

const figure: Figure = {
  ...{ bench: "peers", engine: "subbit", format: "0.8 bits", shape: "tiny", threads: 1 },
  ...{ metric: "decode", unit: "tok/s", median: 12.3456789, spread: 0.1, rounds: 3 },
};
const where = { commit: "abc", machine: "m" };

describe("the record of benchmarks", () => {
  test("holds a row for each figure, and nothing where nothing was measured", () => {
    const text = withFigures("", [figure, { ...figure, metric: "rss", bytes_per_token: 7 }], where);
    expect(text.split("\n")).toEqual([
      "commit,machine,bench,engine,format,shape,threads,metric,unit," +
        "median,spread,rounds,bytes_per_token,bandwidth_gb_s,bandwidth_fraction",
      "abc,m,peers,subbit,0.8 bits,tiny,1,decode,tok/s,12.346,0.1,3,,,",
      "abc,m,peers,subbit,0.8 bits,tiny,1,rss,tok/s,12.346,0.1,3,7,,",
      "",
    ]);
  });

  test("replaces a figure of the same commit and keeps those of others", () => {
    const first = withFigures("", [figure], where);
    const second = withFigures(first, [{ ...figure, median: 20 }], where);
    expect(second.split("\n")).toHaveLength(3);
    expect(second).toContain(",20,");
    const third = withFigures(second, [figure], { ...where, commit: "def" });
    expect(third.split("\n")).toHaveLength(4);
  });

  test("a comma in a name does not shift the columns after it", () => {
    const text = withFigures("", [{ ...figure, metric: "a, b" }], where);
    expect(text).toContain(",a; b,tok/s,");
    expect(withFigures(text, [{ ...figure, metric: "a, b" }], where).split("\n")).toHaveLength(3);
  });

  test("names the machine as a file may be called", () => {
    expect(machineName()).toMatch(/^[a-z0-9-]+$/);
  });

  test("the median of an even number lies between the middle two", () => {
    expect(summary([4, 1, 3, 2])).toEqual({ median: 2.5, spread: 1.2, rounds: 4 });
    expect(summary([5])).toEqual({ median: 5, spread: 0, rounds: 1 });
  });
});
