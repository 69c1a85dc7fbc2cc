/**
 * npm run test:arm64: builds the engine's tests for 64-bit Arm and runs those of formats, back ends
 * and arithmetic under emulation, once as a processor with dot products of bytes and once as one
 * that has products of small matrices too. What is tested is the bits; speed under emulation says
 * nothing. The addon itself, in an arm64 Node from npm: npm run test:package.
 *
 *   node scripts/test-arm64.js [--all]    all tests, on more processors: some minutes
 *
 * Needs CMake and, by their Debian names, g++-aarch64-linux-gnu and qemu-user-static.
 */
import { join } from "node:path";

import { cmakeBuild } from "./cmake-builds.js";
import { BuildError, findProgram, run, runMain } from "./commands.js";

/** max has everything that qemu knows; cortex-a72 has no dot products. */
const processors = ["cortex-a76", "max"];

runMain(() => {
  const compiler = findProgram("aarch64-linux-gnu-g++");
  const emulator = findProgram("qemu-aarch64-static");
  if (!compiler || !emulator)
    throw new BuildError(
      "this needs aarch64-linux-gnu-g++ and qemu-aarch64-static on PATH " +
        "(Debian: apt-get install g++-aarch64-linux-gnu qemu-user-static)",
    );
  const all = process.argv.includes("--all");
  const settings = {
    CMAKE_BUILD_TYPE: "Release",
    CMAKE_SYSTEM_NAME: "Linux",
    CMAKE_SYSTEM_PROCESSOR: "aarch64",
    CMAKE_CXX_COMPILER: compiler,
    CMAKE_EXE_LINKER_FLAGS: "-static",
  };
  const target = all ? "engine_tests" : "kernel_tests";
  const tests = join(cmakeBuild("arm64", settings, [target]), target);
  for (const processor of all ? [...processors, "cortex-a72"] : processors)
    run(emulator, ["-cpu", processor, tests]);
});
