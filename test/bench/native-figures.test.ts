import { describe, expect, test } from "vitest";

import { nativeFigures } from "../../bench/native-figures.js";

describe("figures of the C++ benches", () => {
  test("a linear's time, with what it reads and the part of the bandwidth", () => {
    const printed = {
      ...{ bench: "linear", name: "o 4096x4096 r=1600", threads: 2, tokens: 1, seconds: 2e-4 },
      ...{ bytes: 1_638_400, gb_s: 8, bandwidth_fraction: 0.25, spread: 0.1, gbit_s: 65, cpu: 1 },
    };
    expect(nativeFigures(JSON.stringify([printed]))).toEqual([
      expect.objectContaining({
        ...{ bench: "linear", engine: "subbit", threads: 2, shape: "o 4096x4096 r=1600" },
        ...{ metric: "1 tokens", unit: "us", median: 200, spread: 0.1 },
        ...{ bytes_per_token: 1_638_400, bandwidth_gb_s: 32, bandwidth_fraction: 0.25 },
      }),
    ]);
  });

  test("a bench that is not kept gives none", () => {
    expect(nativeFigures('[{"bench":"another","seconds":1}]')).toEqual([]);
  });
});
