/**
 * npm run test:metal: what the shaders need that GCC cannot check.
 *
 *   address spaces  every .metal file as C++ for clang, with device and threadgroup memory as
 *                   address spaces: a pointer without its space is an error; so is a cast between
 *                   two, which clang accepts and its syntax tree shows
 *   races           the shaders and their tests with every load and store reported to the race
 *                   detector of metal_on_cpu
 *   slots           K1's issue slots a stored bit, counted in clang's output, within the aim
 *   macOS           what knows of macOS compiled for it and linked strictly (zig, from npm)
 * and with --all, what takes many minutes:
 *
 *   wrong kernels   each kernel broken in turn: the self-test names it and no other
 *   whole models    stories15M compressed in every form, loaded with device: 'metal' over the fake
 *                   Metal, beside the processor
 *   cross-build     the whole addon for darwin-arm64, strictly linked and looked at
 *
 * Each part first proves on planted faults that it can fail. clang++-19 (Debian: clang-19) and zig
 * are installed where they are missing and may be; where they may not, their parts are skipped with
 * a line that says so, except in CI, where that is a failure.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, statSync } from "node:fs";
import { basename, join } from "node:path";

import { buildEngineTests } from "./build-native.js";
import { BuildError, findProgram, run, runAll, runMain } from "./commands.js";
import { countSlots, matrixSlots, slots, slotsPerBit } from "./metal/slots.js";
import { checkMacLink } from "./prebuild/mac-link.js";
import { installZig } from "./prebuild/zig.js";
import { filesBelow, root } from "./sources.js";

const prelude = join(root, "scripts/metal/address_spaces.h");

/**
 * @param {string} clang
 * @param {string[]} args
 * @param {string} [input]
 */
function clangSays(clang, args, input) {
  const { status, stdout, stderr } = spawnSync(
    clang,
    ["-std=c++20", "-x", "c++", "-fsyntax-only", "-Wno-unknown-attributes", ...args],
    { encoding: "utf8", input, maxBuffer: 1 << 30, cwd: root },
  );
  return { failed: status !== 0, stdout, stderr };
}

/**
 * What is wrong with a shader's pointers; empty when nothing.
 * @param {string} clang
 * @param {string} path
 * @param {string} [input] the text, when `path` is "-"
 */
function pointerFaults(clang, path, input) {
  const compiled = clangSays(clang, ["-include", prelude, path], input);
  if (compiled.failed) return compiled.stderr;
  const tree = clangSays(clang, ["-include", prelude, "-Xclang", "-ast-dump", path], input);
  const casts = tree.stdout.split("\n").filter((line) => line.includes("<AddressSpaceConversion>"));
  return casts.map((line) => `a cast between address spaces: ${line.trim()}`).join("\n");
}

/** Shaders that Apple's compiler would refuse, or should: each must be found. */
const plantedPointers = {
  "a local pointer without its space": "const uint* p = x;",
  "threadgroup memory as device memory": "device const uint* p = memory;",
  "a cast that changes the space": "threadgroup const uint* p = (threadgroup const uint*)x;",
  "a cast that drops the space": "const uint* p = (const uint*)x;",
  "a store to constant memory": "args = 1u;",
};

/** @param {string} statement */
function plantedKernel(statement) {
  return `KERNEL(planted, (constant uint& args [[buffer(0)]], device const uint* x [[buffer(1)]],
                           device uint* y [[buffer(2)]], threadgroup uint* memory THREADGROUP(0))) {
    ${statement}
    y[0] = args;
  }`;
}

/** @param {string} clang */
function checkAddressSpaces(clang) {
  const sound = pointerFaults(clang, "-", plantedKernel("device const uint* p = x;"));
  if (sound !== "") throw new BuildError(`a sound kernel was refused: ${sound}`);
  for (const [fault, statement] of Object.entries(plantedPointers)) {
    if (pointerFaults(clang, "-", plantedKernel(statement)) !== "") continue;
    throw new BuildError(`address spaces: ${fault} was not found`);
  }
  const shaders = filesBelow("metal", (path) => path.endsWith(".metal"));
  const faults = shaders.map((path) => pointerFaults(clang, path)).filter((text) => text !== "");
  if (faults.length > 0) throw new BuildError(faults.join("\n"));
  const planted = Object.keys(plantedPointers).length;
  console.log(`address spaces: ${shaders.length} shaders sound, ${planted} planted faults found`);
}

/**
 * Whether `object` is older than anything its dependency file names.
 * @param {string} object
 */
function isStale(object) {
  const list = `${object}.d`;
  if (!existsSync(object) || !existsSync(list)) return true;
  const built = statSync(object).mtimeMs;
  const names = readFileSync(list, "utf8")
    .replace(/^[^:]*:/, "")
    .split(/[\s\\]+/)
    .filter(Boolean);
  return names.some((name) => !existsSync(name) || statSync(name).mtimeMs > built);
}

/**
 * Only shaders report their accesses: what runs them may touch anything.
 * @param {string} path
 */
function traceFlags(path) {
  const shader = /metal_on_cpu\/(shaders|planted)\//.test(path);
  return [
    ...["-std=c++20", "-O1", "-g1", "-ffp-contract=off"],
    ...(shader ? ["-fsanitize-coverage=func,trace-loads,trace-stores"] : []),
    ...["-DSUBBIT_TRACE_ACCESSES", `-DSUBBIT_TEST_ROOT="${join(root, "test")}"`],
    ...["-Inative/engine", "-Itest", "-I."],
  ];
}

/**
 * Compiles the shaders with every access reported, and their tests, against the engine that the
 * ordinary build made.
 * @param {string} clang
 * @returns {Promise<string>} the binary
 */
async function buildTraced(clang) {
  const engine = join(buildEngineTests(), "../libsubbit_engine.a");
  const folder = join(root, "build/metal-trace");
  mkdirSync(folder, { recursive: true });
  const support = filesBelow("test/support", (path) => /\/(metal_|test_main)[^/]*\.cc$/.test(path));
  const machine = filesBelow("test/support/metal_on_cpu", (path) => path.endsWith(".cc"));
  const tests = filesBelow("test/native/metal", (path) => path.endsWith("_test.cc"));
  const sources = [...new Set([...support, ...machine, ...tests])];
  const objects = sources.map((path) => join(folder, `${path.replaceAll("/", "_")}.o`));
  const launcher = findProgram("ccache");
  const commands = sources.flatMap((path, i) => {
    const object = objects[i] ?? "";
    if (!isStale(object)) return [];
    const command = [clang, ...traceFlags(path), "-MMD", "-MF", `${object}.d`, "-c", path];
    return [[...(launcher ? [launcher] : []), ...command, "-o", object]];
  });
  await runAll(commands);
  const binary = join(folder, "metal_tests");
  run(clang, ["-o", binary, ...objects, engine, "-lpthread"]);
  return binary;
}

/** The aim of docs/metal.md. */
const mostSlotsPerBit = 1.25;

/** @param {string} clang */
function checkSlots(clang) {
  const counted = countSlots(clang);
  if (counted.unit.popcounts !== 28) throw new BuildError("slots: K1 is not 7 popcounts a word");
  for (const columns of [4096, 1600]) {
    const { inner, all } = slotsPerBit(counted, columns / 32);
    const text = `${inner.toFixed(3)} in the inner loop, ${all.toFixed(3)} in all`;
    console.log(`slots: K1 over ${columns} columns, per stored bit: ${text}`);
    if (all > mostSlotsPerBit) throw new BuildError(`slots: more than ${mostSlotsPerBit}`);
  }
  const select = slots(counted.selectUnit) / 128;
  console.log(`slots: K2 per stored bit: ${select.toFixed(3)} in the inner loop`);
  const [now, m5] = [102, 408].map((each) => matrixSlots(counted, each).toFixed(2));
  console.log(
    `slots: prompts by matrices, a sign and a token: ${now}; at four times the rate ${m5}`,
  );
  const table = (slots(counted.tableRow) / 32).toFixed(2);
  const byMatrix = matrixSlots(counted, 102, counted.tileEntries).toFixed(2);
  const move = (slots(counted.tableMove) / 512).toFixed(2);
  console.log(
    `slots: tables, a weight and a token: ${table} one by one, ${byMatrix} by matrices, ` +
      `${move} more in a chunk that moves the sums`,
  );
  const few = [2, 4, 8].map((tokens) => {
    const each = matrixSlots(counted, 102, counted.tileEntries, tokens);
    return `${(tokens * each).toFixed(1)} for ${tokens} tokens`;
  });
  console.log(`slots: tables, a weight by matrices: ${few.join(", ")}`);
}

function runLong() {
  const env = { SUBBIT_LONG_TESTS: "1" };
  const tests = buildEngineTests();
  run(tests, ["any_one_wrong_kernel"], { env });
  run(tests, ["stories15M_in_every_form"], { env });
  run(process.execPath, [join(root, "scripts/prebuild.js"), "darwin-arm64"]);
}

/** clang++-19, installed where Debian's package manager may be asked without a password. */
function clang19() {
  const found = findProgram("clang++-19");
  if (found || process.getuid?.() !== 0 || !findProgram("apt-get")) return found;
  console.log("clang++-19 is missing: apt-get install clang-19");
  const env = { DEBIAN_FRONTEND: "noninteractive" };
  try {
    run("apt-get", ["update", "-q"], { env });
    run("apt-get", ["install", "-q", "-y", "--no-install-recommends", "clang-19"], { env });
  } catch (error) {
    if (!(error instanceof BuildError)) throw error;
  }
  return findProgram("clang++-19");
}

/**
 * In CI a failure, elsewhere a line.
 * @param {string} what is skipped, and why
 */
function skip(what) {
  if (process.env["CI"]) throw new BuildError(what);
  console.log(`skipped: ${what}`);
}

async function checkShaders() {
  const clang = clang19();
  if (!clang) {
    skip(
      "address spaces, slots and races: no clang++-19 on PATH (Debian: apt-get install clang-19)",
    );
    return;
  }
  checkAddressSpaces(clang);
  checkSlots(clang);
  const binary = await buildTraced(clang);
  console.log(`races: ${basename(binary)}`);
  run(binary, ["metal"]);
}

async function checkMacOs() {
  if (process.platform === "darwin") return; // whose own compiler and linker have built all of it
  try {
    installZig();
  } catch (error) {
    if (!(error instanceof BuildError)) throw error;
    skip(`macOS: ${error.message}`);
    return;
  }
  const files = await checkMacLink();
  console.log(`macOS: ${files} files compiled and linked strictly, a planted name refused`);
}

runMain(async () => {
  await checkShaders();
  await checkMacOs();
  if (process.argv.includes("--all")) runLong();
});
