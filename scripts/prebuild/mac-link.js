/**
 * The files that know of macOS, compiled for it and linked strictly: every name that they ask of
 * Apple's libraries must be in the stubs. What they ask of C++ and of the rest of the engine is
 * taken as given, so that neither has to be built: a tenth of the time of the whole addon, which
 * prebuild.js links in the same way.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { writeShaderFiles } from "../build-shaders.js";
import { BuildError, runAll } from "../commands.js";
import { readSources, root } from "../sources.js";
import { appleOptions, macTarget, tbd, writeAppleStubs } from "./apple-stubs.js";
import { readMachO } from "./mach-o.js";
import { zigCommand, zigCompile, zigEnvironment } from "./zig.js";

const folder = "build/mac-link";
const stubs = join(root, folder, "stubs");
/** Those of the engine that compile otherwise on a Mac, and those that only a Mac compiles. */
function macSources() {
  const { engine, metal } = readSources();
  const knows = (/** @type {string} */ path) =>
    readFileSync(join(root, path), "utf8").includes("__APPLE__");
  return [...engine.filter(knows), ...metal];
}

/**
 * What the objects ask of C++ and of the engine, as one library that has it all.
 * @param {string[]} objects
 */
function writeStandIn(objects) {
  const names = objects.flatMap((path) => readMachO(readFileSync(join(root, path))).undefined);
  const given = names.map(({ name }) => name).filter((name) => /^(_Z|__cxa_|__gxx_)/.test(name));
  writeFileSync(join(stubs, "usr/lib/libstand_in.tbd"), tbd("/stand-in", [...new Set(given)]));
}

/** @param {string[]} objects */
function link(objects) {
  const options = [...appleOptions(stubs), "-lstand_in", "-o", `${folder}/linked.dylib`];
  zigCompile("cc", [...macTarget, "-shared", ...objects, ...options]);
}

/** A call of a function that Metal does not have. */
function plantedObject() {
  const source = `${folder}/planted.c`;
  writeFileSync(
    join(root, source),
    "void* MTLCreateSystemDefaultDevise(void);\n" +
      "void* planted(void) { return MTLCreateSystemDefaultDevise(); }\n",
  );
  zigCompile("cc", [...macTarget, "-c", source, "-o", `${source}.o`]);
  return `${source}.o`;
}

/**
 * Throws where a file does not compile for macOS or asks for a name that is not there. zig must
 * have been installed.
 * @returns {Promise<number>} the files
 */
export async function checkMacLink() {
  mkdirSync(join(root, folder), { recursive: true });
  writeAppleStubs(stubs);
  const shaders = `${folder}/shader_files.cc`;
  writeShaderFiles(join(root, shaders));
  const { flags } = readSources();
  const sources = [...macSources(), shaders];
  const objects = sources.map((path) => `${folder}/${path.replaceAll("/", "_")}.o`);
  // What is linked is not run: it need not be fast. (-O0 would bring in zig's own checks.)
  const options = [...flags.filter((flag) => flag !== "-O3"), "-O1", "-w"];
  const compile = [...zigCommand("c++"), ...macTarget, "-std=c++20", ...options];
  await runAll(
    sources.map((path, i) => [
      ...[...compile, "-Inative/engine", "-I.", "-c", path, "-o", objects[i] ?? ""],
    ]),
    zigEnvironment,
  );
  writeStandIn(objects);
  link(objects);
  let found = false;
  try {
    link([...objects, plantedObject()]);
  } catch (error) {
    found = error instanceof BuildError && error.message.includes("MTLCreateSystemDefaultDevise");
    if (!found) throw error;
  }
  if (!found) throw new BuildError("strict link: a name that Metal does not have was linked");
  return sources.length;
}
