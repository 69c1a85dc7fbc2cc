/**
 * npm run fuzz [-- --seconds N] [--target name]: clang's libFuzzer over each target of test/fuzz,
 * three minutes apiece unless told otherwise, starting from test/fuzz/corpus/<name>. New inputs go
 * to build/fuzz/corpus, crashing ones to build/fuzz/crashes. Needs clang with its runtime (Debian:
 * clang) and CMake.
 */
import { existsSync, mkdirSync } from "node:fs";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";

import { cmakeBuild, findClang } from "./cmake-builds.js";
import { BuildError, runAll, runMain } from "./commands.js";
import { readSources, root } from "./sources.js";

runMain(async () => {
  const { values } = parseArgs({
    options: { seconds: { type: "string", default: "180" }, target: { type: "string" } },
  });
  const clang = findClang();
  if (!clang) {
    console.log("fuzz: skipped, no clang++ on PATH (Debian: apt-get install clang)");
    return;
  }
  const all = readSources().fuzz.map((source) => basename(source, ".cc"));
  const chosen = values.target ? all.filter((name) => name.includes(values.target ?? "")) : all;
  if (chosen.length === 0) throw new BuildError(`no such target; known: ${all.join(", ")}`);
  const settings = { CMAKE_BUILD_TYPE: "Debug", SUBBIT_FUZZ: "ON", CMAKE_CXX_COMPILER: clang };
  const folder = cmakeBuild("fuzz", settings, chosen);
  const commands = chosen.map((target) => {
    const name = target.replace(/^fuzz_/, "");
    const found = `build/fuzz/corpus/${name}`;
    const crashes = `build/fuzz/crashes/${name}`;
    for (const path of [found, crashes]) mkdirSync(join(root, path), { recursive: true });
    const seeds = `test/fuzz/corpus/${name}`;
    return [
      join(folder, target),
      `-max_total_time=${values.seconds}`,
      `-artifact_prefix=${crashes}/`,
      "-timeout=10",
      "-rss_limit_mb=2048",
      "-verbosity=0",
      "-print_funcs=0",
      found,
      ...(existsSync(join(root, seeds)) ? [seeds] : []),
    ];
  });
  console.log(`fuzz: ${chosen.join(", ")}, ${values.seconds} s each`);
  await runAll(commands);
});
