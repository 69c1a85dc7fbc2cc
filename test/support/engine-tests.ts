/** Reads what test_main.cc prints: one line per test, a failing test's messages before its line. */

export interface EngineCase {
  name: string;
  outcome: "ok" | "FAIL" | "skip";
  /** The lines the test printed before its outcome. */
  log: string;
}

export interface EngineResults {
  cases: EngineCase[];
  /** The closing line, absent when the binary did not reach it. */
  totals: { passed: number; failed: number; skipped: number } | undefined;
  /** What was printed after the last test: of use when the binary crashed. */
  rest: string;
}

export function parseEngineTests(output: string): EngineResults {
  const cases: EngineCase[] = [];
  let totals: EngineResults["totals"];
  let pending: string[] = [];
  for (const line of output.split("\n")) {
    const end = /^(\d+) passed, (\d+) failed, (\d+) skipped$/.exec(line);
    const outcome = /^(ok|FAIL|skip) {2,4}(\w+)(?:: (.*))?$/.exec(line);
    if (end) {
      totals = { passed: Number(end[1]), failed: Number(end[2]), skipped: Number(end[3]) };
    } else if (outcome?.[2]) {
      const log = [...pending, outcome[3] ?? ""].join("\n").trim();
      cases.push({ name: outcome[2], outcome: outcome[1] as EngineCase["outcome"], log });
      pending = [];
    } else {
      pending.push(line);
    }
  }
  return { cases, totals, rest: pending.join("\n").trim() };
}
