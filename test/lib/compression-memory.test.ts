/**
 * What compress() says it will hold against what the system measured, in a process of its own, on
 * the model of the README. Stages are cut short in time, not in memory: what a stage holds does not
 * depend on how many of its steps are done.
 */
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

import { expect, test } from "vitest";

import { packageRoot } from "../../lib/package.js";

const stories = join(packageRoot, "../shared/data/models/stories15M");
const work = `
const [dist, source, out, effort] = process.argv.slice(1);
const { nativeAddon } = await import(dist);
const window = (w) =>
  Int32Array.from({ length: 256 }, (_, i) => 3 + (i * 7919 + w * 104729) % 31990);
const brief = { updates: 2 };
const { plan } = await nativeAddon().compress({
  source, out, target: { unit: "bodyBits", amount: 0.9 }, ends: { embeddings: 4, lmHead: 0 },
  calibration: Array.from({ length: 8 }, (_, w) => window(w)), effort, seed: 1n, threads: 2,
  state: out + ".state", onInsufficientMemory: "ignore",
  stages: { gradientWindows: effort === "fast" ? 0 : 2, teacherTokens: 16384, model: brief,
    ...(effort === "fast" ? {} : { absorb: brief, refine: brief, block: brief }) },
}, () => {}).promise;
console.log(JSON.stringify({ ...plan.costs[0], measured: nativeAddon().peakMemory() }));
`;

/** A plan may be over what is measured by so much, and never below. */
const tolerance = { share: 0.25, bytes: 24e6 };

test.skipIf(!existsSync(stories)).each(["fast"])(
  "stories15M, effort %s: the peak is planned within the tolerance (../shared/data)",
  { timeout: 600_000 },
  (effort) => {
    const folder = mkdtempSync(join(tmpdir(), "subbit-compression-"));
    try {
      const dist = pathToFileURL(join(packageRoot, "dist", "native.js")).href;
      const args = ["--input-type=module", "-e", work, dist, stories, join(folder, "out"), effort];
      const said = execFileSync(process.execPath, args, { encoding: "utf8" });
      const { peakBytes, measured } = JSON.parse(said);
      const over = peakBytes - measured;
      expect(over).toBeGreaterThanOrEqual(0);
      expect(over).toBeLessThanOrEqual(Math.max(tolerance.share * measured, tolerance.bytes));
    } finally {
      rmSync(folder, { recursive: true });
    }
  },
);
