/** The build's promises to `npm install` and `npx`: nothing to do twice, and no stale result. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { buildAddon } from "../scripts/build-native.js";
import { buildTypeScript } from "../scripts/build-typescript.js";
import { root } from "../scripts/sources.js";
import { hashOf, isCurrent, stamped } from "../scripts/stamp.js";

test("an install over a finished build compiles nothing", () => {
  expect(buildAddon()).toBe(false);
  expect(buildTypeScript()).toBe(false);
});

describe("a stamp", () => {
  let folder = "";
  const path = (name: string) => join(relative(root, folder), name);
  const write = (name: string, text: string) => writeFileSync(join(folder, name), text);

  beforeAll(() => {
    mkdirSync(join(root, "build"), { recursive: true });
    folder = mkdtempSync(join(root, "build/stamp-"));
    write("source", "one");
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  test("holds until a source, a fact or a product changes", () => {
    const hash = () => hashOf([path("source")], ["gcc 12"]);
    const current = () => isCurrent(path("stamp"), hash(), [path("product")]);
    const build = () => stamped(path("stamp"), hash(), () => write("product", "x"));
    expect(current()).toBe(false);
    build();
    expect(current()).toBe(true);
    expect(hashOf([path("source")], ["gcc 13"])).not.toBe(hash());
    write("source", "two");
    expect(current()).toBe(false);
    build();
    rmSync(join(folder, "product"));
    expect(current()).toBe(false);
  });

  test("is gone after a build that failed", () => {
    const hash = hashOf([path("source")], []);
    stamped(path("stamp"), hash, () => write("product", "x"));
    const failing = () => {
      throw new Error("compiler");
    };
    expect(() => stamped(path("stamp"), hash, failing)).toThrow("compiler");
    expect(isCurrent(path("stamp"), hash, [path("product")])).toBe(false);
  });
});
