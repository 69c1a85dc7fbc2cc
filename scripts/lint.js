/**
 * npm run lint: biome over TypeScript and JSON, clang-format over C++. With --write (npm run
 * format) both rewrite instead. Needs clang-format 19 (Debian: clang-format-19): other versions
 * break lines differently.
 */
import { spawnSync } from "node:child_process";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

import { BuildError, findProgram, run, runMain } from "./commands.js";
import { filesBelow } from "./sources.js";

const clangFormatVersion = 19;

function clangFormat() {
  for (const name of [`clang-format-${clangFormatVersion}`, "clang-format"]) {
    const program = findProgram(name);
    if (!program) continue;
    const { stdout } = spawnSync(program, ["--version"], { encoding: "utf8" });
    if (stdout.includes(`version ${clangFormatVersion}.`)) return program;
  }
  throw new BuildError(`clang-format ${clangFormatVersion} is not on PATH`);
}

/**
 * @param {string} name
 * @param {() => void} check
 * @returns {string | undefined} `name` where the check failed, after it has printed why
 */
function attempt(name, check) {
  try {
    check();
    return undefined;
  } catch (error) {
    if (error instanceof BuildError) return name;
    throw error;
  }
}

runMain(() => {
  const write = process.argv.includes("--write");
  const biome = dirname(createRequire(import.meta.url).resolve("@biomejs/biome/package.json"));
  const check = write ? ["check", "--write"] : ["check", "--error-on-warnings"];
  const folders = ["native", "metal", "test/native", "test/support", "test/fuzz", "bench/native"];
  const ours = (/** @type {string} */ path) => /\.(cc|h|metal)$/.test(path);
  const files = folders.flatMap((folder) => filesBelow(folder, ours));
  const format = write ? ["-i"] : ["--dry-run", "--Werror"];
  const formatter = clangFormat();
  // Each linter has its say before the first failure ends the run.
  const failures = [
    attempt("clang-format", () => run(formatter, [...format, ...files])),
    attempt("biome", () => run(process.execPath, [join(biome, "bin/biome"), ...check])),
  ].filter((failure) => failure !== undefined);
  if (failures.length > 0)
    throw new BuildError(`not in order for ${failures.join(", ")}; npm run format may mend it`);
  console.log(`clang-format: ${files.length} files in order`);
});
