/**
 * The C++ benches' JSON as figures of bench/record.js: what each prints, in the record's words.
 */

/**
 * @typedef {import("./record.js").Figure} Figure
 * @typedef {Record<string, string | number>} Printed one object of a bench's JSON
 */

/** @param {Printed} printed @param {string} name */
const number = (printed, name) => Number(printed[name] ?? 0);

/** @type {Record<string, (printed: Printed) => Partial<Figure>>} by the JSON's own `bench` */
const readers = {
  // Kernels, linears, heads: one call over so many tokens.
  linear: (p) => ({
    ...{ shape: String(p["name"]), metric: `${p["tokens"]} tokens`, unit: "us" },
    ...{ median: 1e6 * number(p, "seconds"), bytes_per_token: number(p, "bytes") },
    bandwidth_gb_s: number(p, "gb_s") / (number(p, "bandwidth_fraction") || 1),
    bandwidth_fraction: number(p, "bandwidth_fraction"),
  }),
  gemm: (p) => ({
    ...{ format: String(p["weights"]), shape: `${p["m"]}x${p["n"]}x${p["k"]}` },
    ...{ metric: "rate", unit: "GFLOP/s", median: number(p, "gflops") },
  }),
  sampler: (p) => ({
    ...{ shape: `vocabulary ${p["vocab"]}`, metric: String(p["name"]), unit: "us", threads: 1 },
    median: 1e6 * number(p, "seconds"),
  }),
  token: (p) => ({
    ...{ shape: String(p["model"]), metric: `${p["operation"]} of ${p["tokens"]} tokens` },
    ...{ unit: "us", median: 1e6 * number(p, "seconds"), bytes_per_token: number(p, "bytes") },
    bandwidth_gb_s: number(p, "bandwidth_gb_s"),
    bandwidth_fraction: number(p, "bandwidth_fraction"),
  }),
};

/**
 * @param {string} json what a bench printed with --json
 * @returns {Figure[]}
 */
export function nativeFigures(json) {
  return JSON.parse(json).flatMap((/** @type {Printed} */ printed) => {
    const reader = readers[String(printed["bench"])];
    if (!reader) return [];
    return {
      ...{ bench: String(printed["bench"]), engine: "subbit", format: "", rounds: 1 },
      ...{ threads: number(printed, "threads"), spread: number(printed, "spread") },
      ...reader(printed),
    };
  });
}
