/**
 * Where measurements go: bench/results/<machine>.csv, one row for each figure, with the commit that
 * was measured. A figure that is measured again on the same commit replaces the row before.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";

const root = join(import.meta.dirname, "..");

/**
 * One figure. `spread` is the largest less the smallest over the median; the last three are there
 * where memory is what a figure should be held against.
 * @typedef {{ bench: string, engine: string, format: string, shape: string, threads: number,
 *   metric: string, unit: string, median: number, spread: number, rounds: number,
 *   bytes_per_token?: number, bandwidth_gb_s?: number, bandwidth_fraction?: number }} Figure
 */

/** What tells a row from others; the rest is what it says. */
const keys = /** @type {const} */ ([
  ...["commit", "machine", "bench", "engine", "format", "shape", "threads", "metric", "unit"],
]);
const values = /** @type {const} */ ([
  ...["median", "spread", "rounds", "bytes_per_token", "bandwidth_gb_s", "bandwidth_fraction"],
]);
const head = [...keys, ...values].join(",");

/**
 * The median of some numbers, and the largest less the smallest over it.
 * @param {readonly number[]} numbers
 */
export function summary(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b);
  const at = (/** @type {number} */ i) => sorted[i] ?? Number.NaN;
  const middle = sorted.length >> 1;
  const median = sorted.length % 2 ? at(middle) : (at(middle - 1) + at(middle)) / 2;
  return { median, spread: (at(sorted.length - 1) - at(0)) / median, rounds: sorted.length };
}

/** The processor by name and number of cores, as a file may be called: `linux-x64-amd-epyc-2`. */
export function machineName() {
  const model = cpus()[0]?.model ?? "unknown";
  // Virtual machines often tell no more than the brand; Linux knows the generation.
  const info = existsSync("/proc/cpuinfo") ? readFileSync("/proc/cpuinfo", "utf8") : "";
  const family = /^cpu family\s*: (\d+)$/m.exec(info)?.[1];
  const words = [process.platform, process.arch, model, family && `family ${family}`];
  const name = [...words.filter(Boolean), `${cpus().length} cores`].join(" ").toLowerCase();
  return name.replaceAll(/\((r|tm|c)\)/g, "").replaceAll(/[^a-z0-9]+/g, "-");
}

/** The commit checked out; with a + where files of it have been changed. */
export function commit() {
  const git = (/** @type {string[]} */ ...args) =>
    spawnSync("git", args, { cwd: root, encoding: "utf8" }).stdout?.trim() ?? "";
  const changed = git("status", "--porcelain", "--", "lib", "native");
  return `${git("rev-parse", "--short", "HEAD") || "unknown"}${changed ? "+" : ""}`;
}

/** At most five significant digits: more is noise. No commas: nothing is quoted. */
function cell(/** @type {unknown} */ value) {
  if (value === undefined) return "";
  if (typeof value === "number") return String(Number(value.toPrecision(5)));
  return String(value).replaceAll(/[,\n]/g, ";");
}

/**
 * The text of a results file with `figures` in it.
 * @param {string} before what the file holds, or nothing
 * @param {readonly Figure[]} figures
 * @param {{ commit: string, machine: string }} where
 */
export function withFigures(before, figures, where) {
  const rows = new Map();
  const keyOf = (/** @type {string} */ line) => line.split(",").slice(0, keys.length).join(",");
  for (const line of before.split("\n").slice(1)) if (line) rows.set(keyOf(line), line);
  for (const figure of figures) {
    const all = /** @type {Record<string, unknown>} */ ({ ...where, ...figure });
    const line = [...keys, ...values].map((name) => cell(all[name])).join(",");
    rows.set(keyOf(line), line);
  }
  return `${[head, ...rows.values()].join("\n")}\n`;
}

/**
 * Adds figures to this machine's file and returns its path.
 * @param {readonly Figure[]} figures
 */
export function record(figures) {
  const machine = machineName();
  const folder = join(root, "bench/results");
  const file = join(folder, `${machine}.csv`);
  mkdirSync(folder, { recursive: true });
  const before = existsSync(file) ? readFileSync(file, "utf8") : head;
  writeFileSync(file, withFigures(before, figures, { commit: commit(), machine }));
  return file;
}
