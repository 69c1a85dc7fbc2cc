/**
 * Prints vitest's totals of the last `npm test` as "N passed, N failed, N skipped"; each C++ test
 * is one of vitest's. A test file that could not be loaded counts as a failure. Fails when there
 * are failures, or no report.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

import { BuildError, runMain } from "./commands.js";
import { root } from "./sources.js";

runMain(() => {
  const path = join(root, "build/vitest.json");
  if (!existsSync(path)) throw new BuildError("npm test wrote no build/vitest.json");
  const report = JSON.parse(readFileSync(path, "utf8"));
  /** @type {{ status: string, assertionResults: { status: string }[] }[]} */
  const suites = report.testResults;
  const unloaded = suites.filter(
    ({ status, assertionResults }) =>
      status === "failed" && assertionResults.every((test) => test.status !== "failed"),
  ).length;
  const failed = report.numFailedTests + unloaded;
  const skipped = report.numPendingTests + report.numTodoTests;
  console.log(`${report.numPassedTests} passed, ${failed} failed, ${skipped} skipped`);
  if (failed > 0 || report.numPassedTests === 0) process.exitCode = 1;
});
