/**
 * npm run test:sanitize: the engine's tests, and every fuzz target over its corpus, under
 * AddressSanitizer and UndefinedBehaviorSanitizer. A finding ends the run. Each corpus is followed
 * by 20,000 mutations, a fifth of the default: this code is slow, and npm run fuzz goes deeper.
 */
import { existsSync } from "node:fs";
import { basename, join } from "node:path";

import { cmakeBuild } from "./cmake-builds.js";
import { runAll, runEngineTests, runMain } from "./commands.js";
import { readSources, root } from "./sources.js";

runMain(async () => {
  const fuzzers = readSources().fuzz.map((source) => basename(source, ".cc"));
  const settings = { CMAKE_BUILD_TYPE: "Debug", SUBBIT_SANITIZE: "ON" };
  const folder = cmakeBuild("sanitize", settings, ["engine_tests", ...fuzzers]);
  const env = { UBSAN_OPTIONS: "print_stacktrace=1", ASAN_OPTIONS: "strict_string_checks=1" };
  await runEngineTests(join(folder, "engine_tests"), env);
  const replays = fuzzers.map((name) => {
    const corpus = `test/fuzz/corpus/${name.replace(/^fuzz_/, "")}`;
    return [join(folder, name), corpus, "20000"];
  });
  await runAll(
    replays.filter(([, corpus = ""]) => existsSync(join(root, corpus))),
    env,
  );
});
