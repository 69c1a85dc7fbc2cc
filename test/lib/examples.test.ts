/** The programs under examples/ do what they say, with a small random model. */
import { spawnSync } from "node:child_process";
import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { beforeAll, expect, test } from "vitest";

import { packageRoot } from "../../lib/package.js";
import { writeRandomModel } from "../support/random-model.js";
import { temporaryDirectory } from "../support/tiny-model.js";

let model: string;
beforeAll(() => {
  model = writeRandomModel();
});

const run = new Set<string>();

function example(name: string, ...args: string[]): string {
  run.add(name);
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [join(packageRoot, "examples", name), ...args],
    { encoding: "utf8", env: { ...process.env, XDG_CACHE_HOME: temporaryDirectory() } },
  );
  expect(status, stderr).toBe(0);
  return stdout;
}

test("stream.js prints the prompt and goes on", () => {
  expect(example("stream.js", model, "the cat").length).toBeGreaterThan("the cat\n".length);
});

test("sample.js prints three continuations with their speed", () => {
  const out = example("sample.js", model, "the cat");
  expect(out.match(/^the cat/gm)).toHaveLength(3);
  expect(out.match(/tokens, \d+ a second/g)).toHaveLength(3);
});

test("compress.js makes a smaller model and says what it cost", () => {
  const text = join(temporaryDirectory(), "text.txt");
  writeFileSync(text, "the cat and the cat. a cat and a hand. ".repeat(40));
  const out = example("compress.js", model, join(temporaryDirectory(), "out"), "3", text);
  expect(out).toMatch(/^\d+ bytes became \d+$/m);
  expect(out).toMatch(/KL divergence from the original: [\d.]+ nats/);
});

test("no example is left untested", () => {
  const all = readdirSync(join(packageRoot, "examples")).filter((name) => name.endsWith(".js"));
  expect([...run].sort()).toEqual(all.sort());
});
