/**
 * native/sources.json is the one list of C++ files and compiler flags that CMake and node-gyp read.
 * This script compares it with the tree (test/tidy.test.ts does too) and, with --write, rewrites
 * its file lists: `npm run sources` after adding or removing a C++ file. Flags are edited by hand.
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

export const root = dirname(dirname(fileURLToPath(import.meta.url)));

/**
 * @typedef {{ flags: string[], addon_defines: string[], engine: string[], metal: string[],
 *   binding: string[], tests: string[], fuzz: string[], bench: string[] }} Sources
 */

/**
 * Every file below `folder` whose path `accept` takes, sorted, with forward slashes, relative to
 * the repository.
 * @param {string} folder
 * @param {(path: string) => boolean} accept
 * @param {string} [base]
 * @returns {string[]}
 */
export function filesBelow(folder, accept, base = root) {
  if (!existsSync(join(base, folder))) return [];
  return readdirSync(join(base, folder), { withFileTypes: true })
    .flatMap((entry) => {
      const path = `${folder}/${entry.name}`;
      if (entry.isDirectory()) return filesBelow(path, accept, base);
      return accept(path) ? [path] : [];
    })
    .sort();
}

/** @returns {Sources} */
export function readSources() {
  return JSON.parse(readFileSync(join(root, "native/sources.json"), "utf8"));
}

/** The file lists as the tree has them. */
export function sourcesInTree() {
  /** @param {string} path */
  const isSource = (path) => path.endsWith(".cc");
  /** Part of the engine on Macs; elsewhere only of its tests, which bring a Metal of their own. */
  const isMetal = (/** @type {string} */ path) => path.startsWith("native/engine/backend/metal/");
  return {
    engine: filesBelow("native/engine", (path) => isSource(path) && !isMetal(path)),
    metal: filesBelow("native/engine", (path) => isSource(path) && isMetal(path)),
    binding: filesBelow("native/binding", isSource),
    tests: [
      ...filesBelow("test/native", isSource),
      ...filesBelow("test/support", (path) => isSource(path)),
    ],
    fuzz: filesBelow("test/fuzz", (path) => /\/fuzz_[^/]*\.cc$/.test(path)),
    bench: filesBelow("bench/native", isSource),
  };
}

/**
 * How the list and the tree differ, one line each; empty when they agree.
 * @param {Partial<Record<string, string[]>>} listed
 * @param {Record<string, string[]>} inTree
 */
export function sourceDifferences(listed, inTree) {
  return Object.entries(inTree).flatMap(([kind, files]) => {
    const known = listed[kind] ?? [];
    return [
      ...files.filter((file) => !known.includes(file)).map((file) => `${kind} lacks ${file}`),
      ...known.filter((file) => !files.includes(file)).map((file) => `${kind} names ${file}`),
    ];
  });
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const differences = sourceDifferences(readSources(), sourcesInTree());
  for (const line of differences) console.log(`native/sources.json: ${line}`);
  if (process.argv.includes("--write")) {
    const text = JSON.stringify({ ...readSources(), ...sourcesInTree() }, null, 2);
    writeFileSync(join(root, "native/sources.json"), `${text}\n`);
  } else if (differences.length > 0) {
    process.exitCode = 1;
  }
}
