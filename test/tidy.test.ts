/**
 * What the machine checks of the house: walls, sizes, names. Each rule is a test that lists its
 * offenders; test/tidy-rules.test.ts plants a fault for each to prove that it can fail.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";

import { describe, expect, test } from "vitest";

import {
  filesBelow,
  readSources,
  root,
  sourceDifferences,
  sourcesInTree,
} from "../scripts/sources.js";
import {
  codeMatches,
  engineForbids,
  forbiddenNames,
  languageOf,
  longFiles,
  longFunctions,
  longLines,
  misspelledNames,
  nodeApi,
  unreached,
} from "./support/tidy/texts.js";
import {
  architecturesNamedElsewhere,
  folderCycles,
  forbiddenImports,
  forbiddenIncludes,
  formatsNamedElsewhere,
  importsOf,
  includesOf,
  nativeFolder,
  type SourceFile,
} from "./support/tidy/walls.js";

const notOurs = /^test\/(fixtures|fuzz\/corpus)\/|^bench\/results\//;
const rooms = ["lib", "native", "metal", "test", "bench", "scripts", "examples"];
const paths = rooms
  .flatMap((room) => filesBelow(room, () => true))
  .filter((path) => !notOurs.test(path));

function read(path: string): SourceFile {
  return { path, text: readFileSync(join(root, path), "utf8") };
}

const files = paths.filter((path) => languageOf(path) !== undefined).map(read);
const below = (prefix: string): SourceFile[] => files.filter(({ path }) => path.startsWith(prefix));
const native = below("native/");
const lib = below("lib/");

describe("walls", () => {
  test("no native file includes across a wall", () => {
    expect(forbiddenIncludes(native)).toEqual([]);
  });

  test("only a format's own folder, the registry and its fit name a format", () => {
    expect(formatsNamedElsewhere(native)).toEqual([]);
  });

  test("only the registry names architectures", () => {
    const registry = native.find(({ path }) => path === "native/engine/models/registry.cc");
    const named = (registry ? includesOf(registry) : [])
      .map(({ to }) => /^engine\/models\/(\w+)\.h$/.exec(to)?.[1] ?? "")
      .filter((name) => !["", "registry", "model"].includes(name));
    expect(named.length).toBeGreaterThan(0);
    expect(architecturesNamedElsewhere(native, named)).toEqual([]);
  });

  test("no two folders include each other in a circle", () => {
    expect(folderCycles(native.flatMap(includesOf), nativeFolder)).toEqual([]);
  });

  test("no two files of lib/ import each other in a circle", () => {
    expect(folderCycles(lib.flatMap(importsOf), (path) => path)).toEqual([]);
  });

  test("lib/ imports only lib/, and only the command line knows the command line", () => {
    expect(forbiddenImports(lib)).toEqual([]);
  });

  test("Node-API stays in native/binding", () => {
    expect(codeMatches(below("native/engine/"), nodeApi)).toEqual([]);
  });

  test("only lib/native.ts loads a binary", () => {
    const others = lib.filter(({ path }) => path !== "lib/native.ts");
    expect(codeMatches(others, /\bcreateRequire\b|\bprocess\.dlopen\b/)).toEqual([]);
  });
});

describe("manners", () => {
  test("the engine never prints, ends the process or reads the environment", () => {
    expect(codeMatches(below("native/engine/"), engineForbids)).toEqual([]);
  });

  test("the library prints nothing outside its command line", () => {
    const library = lib.filter(({ path }) => !path.startsWith("lib/cli/"));
    expect(codeMatches(library, /\bconsole\.\w+|\bprocess\.std(out|err)\b/)).toEqual([]);
  });
});

describe("sizes", () => {
  test("files stay under 800 lines", () => {
    expect(longFiles(files)).toEqual([]);
  });

  test("functions stay under 70 lines, kernels under 120", () => {
    expect(longFunctions(files)).toEqual([]);
  });

  test("lines stay within 100 columns", () => {
    expect(longLines([...files, read("CMakeLists.txt"), read("binding.gyp")])).toEqual([]);
  });
});

describe("names", () => {
  test("no file is called utils, helpers, common, misc or manager", () => {
    expect(forbiddenNames(paths)).toEqual([]);
  });

  test("C++ files are snake_case, TypeScript files kebab-case", () => {
    expect(misspelledNames(paths)).toEqual([]);
  });

  test("the engine, the package and the changelog agree on the version", () => {
    const { version } = JSON.parse(read("package.json").text);
    const named = native.flatMap(({ text }) => [...text.matchAll(/k\w*Version\w* = "([^"]+)"/g)]);
    expect(named.filter((match) => match[1] !== version).map((match) => match[0])).toEqual([]);
    expect(read("CHANGELOG.md").text).toContain(`## ${version}`);
  });
});

describe("nothing lies about", () => {
  test("native/sources.json lists every C++ file (npm run sources)", () => {
    expect(sourceDifferences(readSources(), sourcesInTree())).toEqual([]);
  });

  test("every C++ test file ends in _test.cc, every TypeScript test in .test.ts", () => {
    const cpp = below("test/native/").filter(
      ({ path, text }) => /^TEST\(/m.test(text) && !path.endsWith("_test.cc"),
    );
    const ts = below("test/").filter(
      ({ path, text }) => /^import .*\bfrom "vitest"/m.test(text) && !path.endsWith(".test.ts"),
    );
    expect([...cpp, ...ts].map(({ path }) => path)).toEqual([]);
  });

  test("every header is included by something that is compiled", () => {
    const includes = [...native, ...below("test/"), ...below("bench/")].flatMap((file) => {
      const edges = includesOf(file);
      if (file.path.startsWith("native/")) {
        return edges.map(({ from, to }) => ({ from: `native/${from}`, to: `native/${to}` }));
      }
      // Tests see two include paths, and a bare name is a neighbour.
      return edges.flatMap(({ to }) =>
        [to, `native/${to}`, to.replace(/^engine\//, "test/")].map((path) => ({
          from: file.path,
          to: path,
        })),
      );
    });
    const cpp = [...native, ...below("test/"), ...below("bench/")].map(({ path }) => path);
    const headers = cpp.filter((path) => path.endsWith(".h"));
    const compiled = cpp.filter((path) => path.endsWith(".cc"));
    expect(unreached(headers, compiled, includes)).toEqual([]);
  });

  test("every file of lib/ is reached from the API or the command line", () => {
    const entries = ["lib/index.ts", "lib/cli/main.ts"];
    const all = lib.map(({ path }) => path);
    expect(unreached(all, entries, lib.flatMap(importsOf))).toEqual([]);
  });
});
