/**
 * Builds the engine and its tests with clang++ and runs them: the compiler that Debian's default
 * build does not use. Clang 14 is the oldest the project supports. Warnings are errors here, and
 * not in GCC's builds, where some are false.
 */
import { join } from "node:path";

import { cmakeBuild, findClang } from "./cmake-builds.js";
import { BuildError, runEngineTests, runMain } from "./commands.js";

runMain(async () => {
  const clang = findClang();
  if (!clang) throw new BuildError("no clang++ on PATH (Debian: apt-get install clang)");
  const settings = {
    CMAKE_BUILD_TYPE: "Release",
    CMAKE_CXX_COMPILER: clang,
    CMAKE_CXX_FLAGS: "-Werror",
  };
  await runEngineTests(join(cmakeBuild("clang", settings, ["engine_tests"]), "engine_tests"));
});
