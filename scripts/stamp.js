/**
 * Tells whether a build is current: a stamp beside the result holds a hash over the contents of
 * everything that went into it. Contents and not modification times, because git and npm write
 * files in any order, and `npx` runs the install hook again over a finished build.
 */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";

import { root } from "./sources.js";

/**
 * A hash of the named files' contents and of `facts` (versions, platform, options).
 * @param {string[]} files relative to the repository
 * @param {string[]} facts
 */
export function hashOf(files, facts) {
  const hash = createHash("sha256");
  for (const fact of facts) hash.update(`${fact}\0`);
  for (const file of [...files].sort()) {
    hash.update(`${file}\0`);
    hash.update(readFileSync(join(root, file)));
  }
  return hash.digest("hex");
}

/**
 * Whether `stamp` holds `hash` and every product is still there.
 * @param {string} stamp
 * @param {string} hash
 * @param {string[]} products
 */
export function isCurrent(stamp, hash, products) {
  if (![stamp, ...products].every((path) => existsSync(join(root, path)))) return false;
  return readFileSync(join(root, stamp), "utf8").trim() === hash;
}

/**
 * Runs `build` and stamps its result; a build that throws leaves no stamp behind.
 * @param {string} stamp
 * @param {string} hash
 * @param {() => void} build
 */
export function stamped(stamp, hash, build) {
  rmSync(join(root, stamp), { force: true });
  build();
  mkdirSync(dirname(join(root, stamp)), { recursive: true });
  writeFileSync(join(root, stamp), `${hash}\n`);
}
