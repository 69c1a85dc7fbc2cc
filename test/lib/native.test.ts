import { writeFileSync } from "node:fs";
import { join } from "node:path";

import { expect, test } from "vitest";

import { ModelError } from "../../lib/errors.js";
import { loadAddon } from "../../lib/native.js";
import { temporaryDirectory } from "../support/tiny-model.js";

test("a missing binary says what was looked for and how to build it", () => {
  const candidates = ["/nowhere/prebuilds/subbit.node", "/nowhere/build/Release/subbit.node"];
  try {
    loadAddon(candidates);
    expect.unreachable();
  } catch (error) {
    if (!ModelError.isInstance(error)) throw error;
    expect(error.code).toBe("NO_NATIVE_BINARY");
    for (const candidate of candidates) expect(error.message).toContain(candidate);
    expect(error.message).toContain("npm run build");
  }
});

test("a binary that does not load says why, and the next one is tried", () => {
  const directory = temporaryDirectory();
  const broken = join(directory, "broken.node");
  writeFileSync(broken, "not a shared object");
  expect(() => loadAddon([broken])).toThrow(/broken\.node: (?!not there)/);
  // A module stands in for a binary: what counts is that the second candidate is loaded.
  const sound = join(directory, "sound.cjs");
  writeFileSync(sound, "module.exports = { version: '1' };");
  expect(loadAddon([broken, sound]).version).toBe("1");
});
