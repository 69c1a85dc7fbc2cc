/**
 * npm run bench [-- name [--record] [arguments]]: runs all benches, or those whose name contains
 * `name`, with the arguments after it: the C++ ones of bench/native, which it builds (that needs
 * CMake), and `javascript`, what JavaScript adds to them. --record puts what they measure into
 * bench/results/<machine>.csv.
 */
import { spawnSync } from "node:child_process";
import { basename, join } from "node:path";

import { nativeFigures } from "../bench/native-figures.js";
import { record } from "../bench/record.js";
import { cmakeBuild } from "./cmake-builds.js";
import { BuildError, run, runMain } from "./commands.js";
import { readSources } from "./sources.js";

/** Runs a C++ bench and keeps its figures. @param {string} file @param {string[]} args */
function runRecorded(file, args) {
  const { status, stdout } = spawnSync(file, [...args, "--json"], {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"],
  });
  if (status !== 0) throw new BuildError(`${file} exited with ${status}`);
  const figures = nativeFigures(stdout);
  console.log(`${figures.length} figures of ${basename(file)} in ${record(figures)}`);
}

runMain(() => {
  const given = process.argv.slice(2);
  const isRecorded = given.includes("--record");
  const [wanted = "", ...args] = given.filter((word) => word !== "--record");
  const native = readSources().bench.map((source) => basename(source, ".cc"));
  const all = [...native, "javascript"];
  // One that needs an argument is run only by its name.
  const chosen = all.filter((name) => name.includes(wanted) && (wanted || name !== "token_bench"));
  if (chosen.length === 0) throw new BuildError(`no such bench; known: ${all.join(", ")}`);
  const built = chosen.filter((name) => native.includes(name));
  const settings = { CMAKE_BUILD_TYPE: "Release" };
  const folder = built.length > 0 ? cmakeBuild("bench", settings, built) : "";
  for (const name of chosen) {
    if (!built.includes(name)) {
      const flags = isRecorded ? ["--record"] : [];
      run(process.execPath, [join("bench/lib", `${name}.js`), ...flags, ...args]);
    } else if (isRecorded) runRecorded(join(folder, name), args);
    else run(join(folder, name), args);
  }
});
