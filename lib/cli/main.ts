#!/usr/bin/env node
/**
 * The command `subbit`: reads the command line, runs a command, turns failures into exit codes.
 * 0: done; 1: it failed; 2: it was called wrongly; 130: interrupted.
 */
import { Command, CommanderError } from "commander";

import { ModelError } from "../errors.js";
import { packageVersion } from "../package.js";
import { benchCommand } from "./bench.js";
import { compressCommand } from "./compress.js";
import { doctorCommand } from "./doctor.js";
import { evalCommand } from "./eval.js";
import { fitCommand } from "./fit.js";
import { generateCommand } from "./generate.js";
import { inspectCommand } from "./inspect.js";
import { synthCommand } from "./synth.js";
import { Interrupted, interruption } from "./terminal.js";

function program(signal: AbortSignal): Command {
  const subbit = new Command("subbit")
    .description("Compress language models below one bit per weight, and run them.")
    .version(packageVersion())
    .showHelpAfterError("(run with --help for the options)");
  for (const command of [
    compressCommand(signal),
    inspectCommand(),
    fitCommand(),
    evalCommand(signal),
    generateCommand(signal),
    synthCommand(signal),
    benchCommand(signal),
    doctorCommand(),
  ]) {
    subbit.addCommand(command.copyInheritedSettings(subbit).exitOverride());
  }
  return subbit.exitOverride();
}

/** The exit code for whatever a command threw; says on stderr what it was. */
function exitCodeOf(error: unknown): number {
  // commander has already written its message.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
  if (error instanceof Interrupted) return error.exitCode;
  if (ModelError.isInstance(error)) {
    process.stderr.write(`subbit: ${error.message} (${error.code})\n`);
    return error.code === "INVALID_OPTION" ? 2 : 1;
  }
  process.stderr.write(`subbit: ${error instanceof Error ? error.stack : String(error)}\n`);
  return 1;
}

// A reader that has enough, such as head, is no failure.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  process.exit(error.code === "EPIPE" ? 0 : 1);
});

try {
  await program(interruption()).parseAsync();
} catch (error) {
  process.exitCode = exitCodeOf(error);
}
