/**
 * npm run bench [-- name [arguments]]: builds the benches of bench/native and runs all of them, or
 * those whose name contains `name`, with the arguments after it. Needs CMake.
 */
import { basename, join } from "node:path";

import { cmakeBuild } from "./cmake-builds.js";
import { BuildError, run, runMain } from "./commands.js";
import { readSources } from "./sources.js";

runMain(() => {
  const [wanted = "", ...args] = process.argv.slice(2);
  const all = readSources().bench.map((source) => basename(source, ".cc"));
  const chosen = all.filter((name) => name.includes(wanted));
  if (chosen.length === 0) throw new BuildError(`no such bench; known: ${all.join(", ")}`);
  const folder = cmakeBuild("bench", { CMAKE_BUILD_TYPE: "Release" }, chosen);
  for (const name of chosen) run(join(folder, name), args);
});
