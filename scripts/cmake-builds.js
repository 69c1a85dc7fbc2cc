/**
 * Builds of the engine beside the addon's, each in a folder of its own below build/: with
 * sanitizers, for fuzzing, with another compiler. They need CMake but neither cmake-js nor Node.
 */
import { join } from "node:path";

import { dropForeignCache } from "./build-native.js";
import { BuildError, findProgram, jobs, run } from "./commands.js";
import { root } from "./sources.js";

/**
 * Configures and builds `targets`, and returns the folder with the binaries.
 * @param {string} folder below build/
 * @param {Record<string, string>} settings CMake cache entries
 * @param {string[]} targets
 */
export function cmakeBuild(folder, settings, targets) {
  const cmake = findProgram("cmake");
  if (!cmake) throw new BuildError("this build needs CMake, which is not on PATH");
  const path = `build/${folder}`;
  dropForeignCache(path);
  const entries = Object.entries(settings).map(([name, value]) => `-D${name}=${value}`);
  const generator = findProgram("ninja") ? ["-G", "Ninja"] : [];
  run(cmake, ["-S", ".", "-B", path, ...generator, ...entries]);
  run(cmake, ["--build", path, "--parallel", jobs(), "--target", ...targets]);
  return join(root, path);
}

/** The newest clang++ on PATH: plain, or with a version in its name as Debian has it. */
export function findClang() {
  const versions = Array.from({ length: 10 }, (_, index) => `clang++-${23 - index}`);
  return findProgram("clang++", ...versions);
}
