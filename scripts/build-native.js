/**
 * Builds the addon, build/Release/subbit.node, and the engine's test binary: with cmake-js where
 * CMake is on PATH, else with node-gyp. Both read native/sources.json. CMake keeps its files in
 * build/cmake, away from node-gyp's, which insists on build/ itself.
 */
import { existsSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

import { BuildError, findProgram, jobs, run } from "./commands.js";
import { filesBelow, root } from "./sources.js";
import { hashOf, isCurrent, stamped } from "./stamp.js";

const require = createRequire(import.meta.url);
const cmakeFolder = "build/cmake";
const cmakeOptions = ["--log-level=warn", "--out", cmakeFolder];
export const addonPath = "build/Release/subbit.node";

/** Where a published package carries the addon for this machine, relative to the root. */
export const prebuiltPath = `prebuilds/${process.platform}-${process.arch}/subbit.node`;

/**
 * A package's own script, to be run by this node, or undefined where it is not installed.
 * @param {string} name
 * @param {string} path
 */
function packageScript(name, path) {
  try {
    return join(dirname(require.resolve(`${name}/package.json`)), path);
  } catch {
    return undefined;
  }
}

/** The node-gyp of the project, else the one npm itself carries and names in lifecycle scripts. */
function nodeGyp() {
  return packageScript("node-gyp", "bin/node-gyp.js") ?? process.env.npm_config_node_gyp;
}

/**
 * @param {boolean} withoutCMake
 * @returns {{ name: "cmake-js" | "node-gyp", script: string }}
 */
function chooseBuilder(withoutCMake = false) {
  const cmakeJs = withoutCMake ? undefined : packageScript("cmake-js", "bin/cmake-js");
  if (cmakeJs && findProgram("cmake")) return { name: "cmake-js", script: cmakeJs };
  const gyp = nodeGyp();
  if (gyp && findProgram("python3", "python")) return { name: "node-gyp", script: gyp };
  throw new BuildError(
    "building the native addon needs a C++20 compiler, and CMake or Python 3 (for node-gyp); " +
      "neither cmake nor python3 is on PATH",
  );
}

/**
 * node-gyp's options: no chatter, and the headers installed beside this node where there are some;
 * without them it downloads the headers of this version.
 */
function gypOptions() {
  const options = ["--loglevel=warn"];
  if (process.env.npm_config_nodedir) return options;
  const prefix = dirname(dirname(process.execPath));
  const installed = existsSync(join(prefix, "include/node/node_api.h"));
  return installed ? [...options, `--nodedir=${prefix}`] : options;
}

/**
 * A copied or moved checkout carries a CMake cache of its old place, which CMake refuses.
 * @param {string} folder
 */
export function dropForeignCache(folder) {
  const cache = join(root, folder, "CMakeCache.txt");
  if (!existsSync(cache)) return;
  if (readFileSync(cache, "utf8").includes(`CMAKE_HOME_DIRECTORY:INTERNAL=${root}\n`)) return;
  rmSync(join(root, folder), { recursive: true });
}

/** Everything the compiler reads, and what decides how it is called. */
function inputs(/** @type {string} */ builder) {
  const files = [
    ...filesBelow("native", () => true),
    ...filesBelow("metal", () => true),
    "CMakeLists.txt",
    "binding.gyp",
  ];
  const napi = require("node-addon-api/package.json").version;
  return hashOf(files, [builder, napi, process.platform, process.arch]);
}

/**
 * @param {string} script
 * @param {string[]} args
 */
function runNode(script, args) {
  run(process.execPath, [script, ...args]);
}

/**
 * Configures every time: after a configuration that failed (no compiler yet, say) there is a cache,
 * and cmake-js would take it for a finished one.
 * @param {string} script
 * @param {string} target
 */
function cmakeBuild(script, target) {
  dropForeignCache(cmakeFolder);
  runNode(script, ["configure", ...cmakeOptions]);
  runNode(script, ["build", ...cmakeOptions, "--parallel", jobs(), "--target", target]);
}

/**
 * Builds the addon unless it is current.
 * @param {{ withoutCMake?: boolean }} [options] `withoutCMake`: node-gyp although CMake is there
 * @returns {boolean} whether anything was built
 */
export function buildAddon(options = {}) {
  const builder = chooseBuilder(options.withoutCMake);
  const hash = inputs(builder.name);
  const stamp = "build/Release/subbit.stamp";
  if (isCurrent(stamp, hash, [addonPath])) return false;
  stamped(stamp, hash, () => {
    console.log(`subbit: building the native addon with ${builder.name}`);
    if (builder.name === "cmake-js") {
      cmakeBuild(builder.script, "subbit");
    } else {
      runNode(builder.script, ["configure", ...gypOptions()]);
      runNode(builder.script, ["build", ...gypOptions(), "--jobs", jobs()]);
    }
  });
  return true;
}

/**
 * Builds the engine's test binary; CMake and make see for themselves what is current.
 * @returns {string} its path
 */
export function buildEngineTests() {
  const builder = chooseBuilder();
  if (builder.name === "cmake-js") {
    cmakeBuild(builder.script, "engine_tests");
    return join(root, cmakeFolder, "engine_tests");
  }
  runNode(builder.script, ["configure", ...gypOptions(), "--", "-Dsubbit_tests=1"]);
  runNode(builder.script, ["build", "engine_tests", ...gypOptions(), "--jobs", jobs()]);
  return join(root, "build/Release/engine_tests");
}
