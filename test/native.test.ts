/**
 * Runs the engine's C++ tests and reports each as a test of its own, so that the totals count them;
 * and checks what the addon asks of the process that loads it.
 */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

import { describe, expect, test } from "vitest";

import { findProgram } from "../scripts/commands.js";
import { root } from "../scripts/sources.js";
import { parseEngineTests } from "./support/engine-tests.js";

const { symbols } = createRequire(import.meta.url)("node-api-headers");
const binary = process.env.SUBBIT_ENGINE_TESTS ?? "";
const ended = spawnSync(binary, [], { encoding: "utf8", maxBuffer: 1 << 28 });
const results = parseEngineTests(ended.stdout ?? "");

describe("engine", () => {
  for (const { name, outcome, log } of results.cases) {
    test(name, ({ skip }) => {
      skip(outcome === "skip", log);
      expect(outcome, log).toBe("ok");
    });
  }

  // A crash in the middle leaves the tests before it green: the closing line is the proof.
  test("the test binary runs to its end", () => {
    const end = `${ended.error?.message ?? ""}${ended.stderr ?? ""}\n${results.rest}`;
    expect(ended.signal, end).toBeNull();
    expect(results.totals, end).toEqual({
      passed: results.cases.filter(({ outcome }) => outcome === "ok").length,
      failed: results.cases.filter(({ outcome }) => outcome === "FAIL").length,
      skipped: results.cases.filter(({ outcome }) => outcome === "skip").length,
    });
    expect(results.cases.length).toBeGreaterThan(0);
    expect(ended.status).toBe(results.cases.some(({ outcome }) => outcome === "FAIL") ? 1 : 0);
  });
});

describe("addon", () => {
  const addon = join(root, "build/Release/subbit.node");
  const nm = findProgram("nm", "llvm-nm");

  test.skipIf(!nm || !existsSync(addon))("needs nothing of its host but Node-API 8", () => {
    const args = process.platform === "darwin" ? ["-u", addon] : ["-D", "--undefined-only", addon];
    const listing = spawnSync(nm ?? "", args, { encoding: "utf8" });
    expect(listing.status, listing.stderr).toBe(0);
    const needed = listing.stdout
      .split("\n")
      .map((line) => line.trim().split(/\s+/).at(-1)?.replace(/@.*/, "") ?? "")
      .map((name) => (process.platform === "darwin" ? name.replace(/^_/, "") : name));
    const nodeApi = needed.filter((name) => name.startsWith("napi_"));
    const allowed = [...symbols.v8.js_native_api_symbols, ...symbols.v8.node_api_symbols];
    expect(nodeApi.length).toBeGreaterThan(0);
    expect(nodeApi.filter((name) => !allowed.includes(name))).toEqual([]);
    // V8's, Node's and libuv's own symbols differ between Node and Electron versions.
    expect(needed.filter((name) => /^(uv_|_ZNK?2v8|_ZNK?4node)/.test(name))).toEqual([]);
    // Electron refuses buffers over memory that it does not own.
    expect(needed.filter((name) => /napi_create_external_(array)?buffer/.test(name))).toEqual([]);
  });
});
