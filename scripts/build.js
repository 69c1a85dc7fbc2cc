/**
 * npm run build, and the hooks of npm install.
 *
 *   node scripts/build.js [native] [ts] [tests]   builds what is named and not current
 *   node scripts/build.js native --install        the install hook: in a clone as above; in an
 *                                                 installed package only without a prebuilt binary
 *   node scripts/build.js native --without-cmake  node-gyp even where CMake is on PATH
 *
 * Needs a C++20 compiler, and CMake or Python 3; nothing from the network but npm's packages
 * (and, for node-gyp beside a node without headers, those headers).
 */
import { existsSync } from "node:fs";
import { join } from "node:path";

import { buildAddon, buildEngineTests, prebuiltPath } from "./build-native.js";
import { buildTypeScript } from "./build-typescript.js";
import { BuildError, runMain } from "./commands.js";
import { root } from "./sources.js";

/** Only a clone has the TypeScript sources; a published package has dist/ instead. */
const isClone = existsSync(join(root, "lib/index.ts"));

const args = process.argv.slice(2);
/** @type {Record<string, () => unknown>} */
const steps = {
  native: () => buildAddon({ withoutCMake: args.includes("--without-cmake") }),
  ts: () => isClone && buildTypeScript(),
  tests: buildEngineTests,
};

runMain(() => {
  const installing = args.includes("--install");
  if (installing && !isClone && existsSync(join(root, prebuiltPath))) return;
  for (const name of args.filter((arg) => !arg.startsWith("--"))) {
    const step = steps[name];
    if (!step)
      throw new BuildError(`unknown step ${name}; known: ${Object.keys(steps).join(", ")}`);
    step();
  }
});
