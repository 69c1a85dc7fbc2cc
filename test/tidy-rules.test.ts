/** Plants a fault for each rule of tidy.test.ts: a rule that cannot fail checks nothing. */
import { describe, expect, test } from "vitest";

import { sourceDifferences } from "../scripts/sources.js";
import { parseEngineTests } from "./support/engine-tests.js";
import { blank } from "./support/tidy/blank.js";
import { findFunctions } from "./support/tidy/functions.js";
import {
  codeMatches,
  engineForbids,
  forbiddenNames,
  functionLimit,
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
} from "./support/tidy/walls.js";

const including = (path: string, ...headers: string[]) => [
  { path: `native/${path}`, text: headers.map((name) => `#include "${name}"\n`).join("") },
];

describe("walls", () => {
  test.each([
    ["engine/base/error.cc", "io/json.h"],
    ["engine/linalg/gemm.cc", "io/json.h"],
    ["engine/io/json.cc", "formats/format.h"],
    ["engine/formats/format.h", "backend/backend.h"],
    ["engine/formats/term.h", "formats/sign/sign.h"],
    ["engine/formats/sign/sign.cc", "formats/factored/factored.h"],
    ["engine/formats/sign/sign.cc", "backend/cpu/cpu_backend.h"],
    ["engine/formats/signs/sign_dot.cc", "formats/sign/sign.h"],
    ["engine/backend/backend.h", "backend/cpu/cpu_backend.h"],
    ["engine/backend/cpu/attention.cc", "models/model.h"],
    ["engine/models/llama.cc", "backend/cpu/cpu_backend.h"],
    ["engine/models/llama.cc", "formats/dense/dense.h"],
    ["engine/decoding/decoder.cc", "models/llama.h"],
    ["engine/decoding/decoder.cc", "runtime/session.h"],
    ["engine/runtime/session.cc", "compress/compress.h"],
    ["engine/compress/compress.cc", "runtime/session.h"],
    ["engine/compress/fit/sign/fit.cc", "formats/factored/factored.h"],
    ["engine/engine.h", "models/model.h"],
    ["binding/addon.cc", "models/model.h"],
    ["engine/attic/old.cc", "base/error.h"],
  ])("%s may not include %s", (from, to) => {
    expect(forbiddenIncludes(including(from, to))).toHaveLength(1);
  });

  test.each([
    ["engine/base/error.cc", "base/error.h"],
    ["engine/formats/sign/sign.cc", "formats/signs/sign_dot.h"],
    ["engine/formats/registry.cc", "formats/sign/sign.h"],
    ["engine/models/llama.cc", "backend/backend.h"],
    ["engine/compress/fit/sign/fit.cc", "formats/sign/sign.h"],
    ["engine/runtime/session.cc", "engine.h"],
    ["binding/addon.cc", "engine.h"],
    ["binding/addon.cc", "convert.h"],
  ])("%s may include %s", (from, to) => {
    expect(forbiddenIncludes(including(from, to))).toEqual([]);
  });

  test("an include in a comment draws no edge", () => {
    const text = '// #include "models/model.h"\n/*\n#include "models/model.h"\n*/\n';
    expect(includesOf({ path: "native/engine/base/a.cc", text })).toEqual([]);
  });

  test("a format named in a model, or in another format's fit", () => {
    const model = including("engine/models/llama.cc", "formats/int4/int4.h");
    const fit = including("engine/compress/fit/sign/fit.cc", "formats/factored/factored.h");
    expect(formatsNamedElsewhere([...model, ...fit])).toHaveLength(2);
    const own = including("engine/compress/fit/sign/fit.cc", "formats/sign/sign.h");
    expect(formatsNamedElsewhere(own)).toEqual([]);
  });

  test("an architecture named outside its registry", () => {
    const named = including("engine/models/model_check.cc", "models/llama.h");
    const registry = including("engine/models/registry.cc", "models/llama.h");
    expect(architecturesNamedElsewhere([...named, ...registry], ["llama"])).toHaveLength(1);
  });

  test("folders in a circle, found once", () => {
    const files = [
      ...including("engine/base/a.cc", "io/b.h"),
      ...including("engine/io/b.h", "models/c.h"),
      ...including("engine/models/c.h", "base/a.h"),
    ];
    const cycles = folderCycles(files.flatMap(includesOf), nativeFolder);
    expect(cycles).toEqual(["engine/base -> engine/io -> engine/models -> engine/base"]);
    expect(folderCycles(files.slice(0, 2).flatMap(includesOf), nativeFolder)).toEqual([]);
  });

  test("lib/ importing a test, its command line, or in a circle", () => {
    const outside = { path: "lib/a.ts", text: 'import { x } from "../test/x.js";\n' };
    const upward = { path: "lib/b.ts", text: 'export { y } from "./cli/main.js";\n' };
    const around = { path: "lib/cli/c.ts", text: 'await import("../native.js");\n' };
    expect(forbiddenImports([outside, upward, around])).toHaveLength(3);
    const one = { path: "lib/one.ts", text: 'import { two } from "./two.js";\n' };
    const two = { path: "lib/two.ts", text: 'import type { One } from "./one.js";\n' };
    expect(folderCycles([one, two].flatMap(importsOf), (path) => path)).toHaveLength(1);
  });
});

describe("words", () => {
  const engine = (text: string) => [{ path: "native/engine/base/a.cc", text }];

  test.each([
    "std::cout << 1;",
    'printf("x");',
    'std::fprintf(stderr, "x");',
    "std::abort();",
    'const char* home = std::getenv("HOME");',
    "assert(a);",
    "exit(1);",
  ])("the engine may not say %s", (text) => {
    expect(codeMatches(engine(text), engineForbids)).toHaveLength(1);
  });

  test.each([
    'std::snprintf(text, sizeof text, "%d", 1);',
    "// std::cout prints",
    'fail("printf(");',
    "static_assert(true);",
    "pool.exit(1);",
  ])("the engine may say %s", (text) => {
    expect(codeMatches(engine(text), engineForbids)).toEqual([]);
  });

  test("Node-API in the engine", () => {
    expect(codeMatches(engine("Napi::Env env;\n#include <node_api.h>"), nodeApi)).toHaveLength(2);
  });

  test("console in the library", () => {
    const file = { path: "lib/a.ts", text: 'console.log("x"); // console.log\n"console.log";\n' };
    expect(codeMatches([file], /\bconsole\.\w+/)).toHaveLength(1);
  });
});

describe("sizes", () => {
  const path = "native/engine/base/a.cc";
  const body = (lines: number) => "  step();\n".repeat(lines);

  test("a file of 800 lines, a line of 101 columns", () => {
    expect(longFiles([{ path, text: "\n".repeat(800) }])).toHaveLength(1);
    expect(longFiles([{ path, text: "\n".repeat(799) }])).toEqual([]);
    expect(longLines([{ path, text: `${"é".repeat(101)}\n` }])).toHaveLength(1);
    expect(longLines([{ path, text: `${"é".repeat(100)}\n` }])).toEqual([]);
  });

  test("a function of 70 lines is too long, one of 69 is not; kernels have 120", () => {
    const text = (lines: number) => `void f(int a) {\n${body(lines - 2)}}\n`;
    expect(longFunctions([{ path, text: text(70) }])).toHaveLength(1);
    expect(longFunctions([{ path, text: text(69) }])).toEqual([]);
    expect(functionLimit("native/engine/linalg/gemm_kernels_avx2.cc")).toBe(120);
    expect(functionLimit("native/engine/linalg/gemm.cc")).toBe(70);
  });

  test.each([
    ["a method with initializers", `Pool::Pool(int n)\n    : size_(n), mode_{Mode::kA} {\n`, "}\n"],
    ["a template", "template <typename T>\nauto g(T a) -> std::vector<T> {\n", "}\n"],
    ["a function in nested namespaces", "namespace a::b {\nnamespace {\nint h() {\n", "}\n}\n}\n"],
    ["a method in a class", "class A : public B {\n public:\n  void run() override {\n", "}\n};\n"],
    ["an operator", "bool operator==(const A& a, const A& b) {\n", "}\n"],
    ["a lambda kept in a name", "const auto f = [](int a) {\n", "};\n"],
    ["a for loop's semicolons", "void f() {\n  for (int i = 0; i < 3; ++i) {\n  }\n", "}\n"],
    ["a brace in a string", `void f() {\n  g("{", '{', R"(})");\n`, "}\n"],
    ["a directive with a brace", "#define OPEN {\nvoid f() {\n", "}\n"],
  ])("finds %s", (_, start, end) => {
    const found = findFunctions(`${start}${body(80)}${end}`, "cpp");
    expect(found.filter(({ lines }) => lines >= 80)).toHaveLength(1);
  });

  test("tables, types and namespaces are no functions", () => {
    const rows = "  {1, 2},\n".repeat(90);
    const table = `constexpr int kTable[][2] = {\n${rows}};\n`;
    const type = `struct A {\n${"  int a;\n".repeat(90)}};\n`;
    expect(findFunctions(`namespace n {\n${table}${type}}\n`, "cpp")).toEqual([]);
  });

  test.each([
    ["a function", "export async function f(a: string): Promise<void> {\n", "}\n"],
    ["an arrow", "const f = (a: number) => {\n", "};\n"],
    ["a method", "class A extends B {\n  async run<T>(a: T): Promise<T> {\n", "}\n}\n"],
    ["a test in a suite", 'describe("a", () => {\n  test("b", () => {\n', "});\n});\n"],
    ["a template literal", "function f() {\n  g(`{${h({ a: 1 })}`);\n", "}\n"],
    ["a regular expression", 'function f() {\n  g(/["{]/.test(a));\n', "}\n"],
  ])("finds %s in TypeScript", (_, start, end) => {
    const found = findFunctions(`${start}${body(80)}${end}`, "ts");
    expect(found.filter(({ lines }) => lines >= 80)).toHaveLength(1);
  });

  test("blanking keeps every line and every column", () => {
    const text = 'a = "x\\"y"; /* b\n c */ d = 1\'000; // e\n';
    const blanked = blank(text, "cpp");
    expect(blanked).toBe("a =       ;     \n      d = 1'000;     \n");
  });
});

describe("names and lists", () => {
  test("a file called utils, in any spelling", () => {
    const bad = ["lib/utils.ts", "native/engine/common/a.cc", "test/test_helpers.cc"];
    expect(forbiddenNames([...bad, "lib/commons-law.ts", "native/engine/io/miscible.cc"])).toEqual(
      bad,
    );
    expect(misspelledNames(["lib/myFile.ts", "native/a-b.cc", "lib/a-b.ts"])).toHaveLength(2);
  });

  test("a source that is not listed, a listed one that is gone", () => {
    const differences = sourceDifferences(
      { engine: ["a.cc", "b.cc"] },
      { engine: ["b.cc", "c.cc"] },
    );
    expect(differences).toEqual(["engine lacks c.cc", "engine names a.cc"]);
  });

  test("a file nothing reaches", () => {
    const edges = [
      { from: "a", to: "b" },
      { from: "c", to: "c" },
    ];
    expect(unreached(["a", "b", "c"], ["a"], edges)).toEqual(["c"]);
  });
});

describe("the engine's test log", () => {
  test("a failing test carries its messages, a skipped one its reason", () => {
    const results = parseEngineTests(
      "ok    one\n  a.cc:1: 2 against 3\nFAIL  two\nskip  three: no data\n" +
        "1 passed, 1 failed, 1 skipped\n",
    );
    expect(results.cases.map(({ outcome }) => outcome)).toEqual(["ok", "FAIL", "skip"]);
    expect(results.cases[1]?.log).toBe("a.cc:1: 2 against 3");
    expect(results.cases[2]?.log).toBe("no data");
    expect(results.totals).toEqual({ passed: 1, failed: 1, skipped: 1 });
  });

  test("a crash leaves no totals, and what it printed", () => {
    const results = parseEngineTests("ok    one\n  something\n");
    expect(results.totals).toBeUndefined();
    expect(results.rest).toBe("something");
  });
});
