/**
 * Finds programs on PATH and runs them; a failed command is a BuildError that says which one.
 */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { accessSync, constants } from "node:fs";
import { availableParallelism } from "node:os";
import { delimiter, join } from "node:path";

import { root } from "./sources.js";

/** A build that failed for a reason the reader can act on: shown without a stack. */
export class BuildError extends Error {}

/**
 * The full path of the first of `names` on PATH, or undefined.
 * @param {...string} names
 * @returns {string | undefined}
 */
export function findProgram(...names) {
  for (const name of names) {
    for (const folder of (process.env.PATH ?? "").split(delimiter)) {
      const path = join(folder, name);
      try {
        accessSync(path, constants.X_OK);
        return path;
      } catch {
        // Not in this folder.
      }
    }
  }
  return undefined;
}

/**
 * Runs a program in the repository's root with its output on ours, and throws unless it succeeds.
 * @param {string} program
 * @param {string[]} args
 * @param {{ env?: Record<string, string> }} [options]
 */
export function run(program, args, options = {}) {
  // CMake trusts PWD, which may reach this folder through a symbolic link.
  const env = { ...process.env, PWD: root, ...options.env };
  const result = spawnSync(program, args, { cwd: root, stdio: "inherit", env });
  if (result.error) throw new BuildError(`${program}: ${result.error.message}`);
  if (result.status === 0) return;
  const end = result.signal ? `was ended by ${result.signal}` : `exited with ${result.status}`;
  throw new BuildError(`${program} ${args.join(" ")}\n${end}`);
}

/**
 * Runs commands, as many side by side as there are processors; their output mingles line by line.
 * @param {readonly (readonly string[])[]} commands
 * @param {Record<string, string>} [env]
 */
export async function runAll(commands, env = {}) {
  const waiting = [...commands];
  const worker = async () => {
    for (let next = waiting.shift(); next; next = waiting.shift()) {
      const [program = "", ...args] = next;
      const options = { cwd: root, env: { ...process.env, ...env } };
      const child = spawn(program, args, { ...options, stdio: "inherit" });
      const [code, signal] = await once(child, "exit");
      if (code === 0) continue;
      waiting.length = 0;
      throw new BuildError(`${next.join(" ")}\n${signal ?? `exited with ${code}`}`);
    }
  };
  await Promise.all(Array.from({ length: Number(jobs()) }, worker));
}

/**
 * The tests of one binary in as many shares as there are processors.
 * @param {string} binary
 * @param {Record<string, string>} [env]
 */
export async function runEngineTests(binary, env = {}) {
  const shares = Number(jobs());
  const commands = Array.from({ length: shares }, (_, i) => [binary, "", `${i}`, `${shares}`]);
  await runAll(commands, env);
}

/** Compilations to run side by side. */
export function jobs() {
  return String(availableParallelism());
}

/**
 * Runs a script's main function; a BuildError becomes one message and exit code 1.
 * @param {() => void | Promise<void>} main
 */
export async function runMain(main) {
  try {
    await main();
  } catch (error) {
    if (!(error instanceof BuildError)) throw error;
    console.error(`subbit: ${error.message}`);
    process.exitCode = 1;
  }
}
