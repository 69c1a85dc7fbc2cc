/**
 * Compiles lib/ to dist/ and makes the command line's entry executable, which tsc does not.
 */
import { chmodSync, existsSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

import { BuildError, run } from "./commands.js";
import { filesBelow, root } from "./sources.js";
import { hashOf, isCurrent, stamped } from "./stamp.js";

const require = createRequire(import.meta.url);
const entry = "dist/cli/main.js";

/**
 * Builds dist/ unless it is current.
 * @returns {boolean} whether anything was built
 */
export function buildTypeScript() {
  let compiler;
  try {
    compiler = require("typescript/package.json");
  } catch {
    throw new BuildError(
      "building dist/ needs the devDependencies: run npm install without --omit",
    );
  }
  const settings = ["tsconfig.json", "tsconfig.build.json"];
  const files = [...filesBelow("lib", (path) => path.endsWith(".ts")), ...settings];
  const hash = hashOf(files, [compiler.version]);
  const stamp = "build/dist.stamp";
  if (isCurrent(stamp, hash, ["dist/index.js", entry])) return false;
  stamped(stamp, hash, () => {
    console.log("subbit: compiling TypeScript");
    // A file deleted from lib/ must not live on in dist/.
    rmSync(join(root, "dist"), { recursive: true, force: true });
    const folder = dirname(require.resolve("typescript/package.json"));
    run(process.execPath, [join(folder, compiler.bin.tsc), "-p", "tsconfig.build.json"]);
    if (!existsSync(join(root, entry))) throw new BuildError(`tsc wrote no ${entry}`);
    chmodSync(join(root, entry), 0o755);
  });
  return true;
}
