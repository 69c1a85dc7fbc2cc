/** `subbit compress`: a model in, a smaller model out; or, with --dry-run, what it would be. */
import { Command, Option } from "commander";

import { compress } from "../compress.js";
import {
  bytesOf,
  type Calibration,
  type CompressTarget,
  type Effort,
  type EndBits,
  type Forms,
  type Keep,
  type Sensitivity,
} from "../options.js";
import { planCompression } from "../plan.js";
import { keepRule, number, whole } from "./arguments.js";
import { planJson, planText, reportJson, reportText } from "./plan.js";
import { ProgressLine, printJson } from "./terminal.js";

interface Options {
  bits?: number;
  fileBits?: number;
  targetSize?: string;
  budget?: string;
  context?: number;
  keep?: Keep;
  forms?: Forms;
  sensitivity?: Sensitivity;
  embeddings?: EndBits;
  lmHead?: EndBits;
  out?: string;
  dryRun?: true;
  calibration?: string[];
  calibrationTokens?: number;
  calibrationContext?: number;
  effort?: Effort;
  seed?: number;
  overwrite?: true;
  threads?: number;
  memory?: string;
  json?: true;
}

export function compressCommand(signal: AbortSignal): Command {
  const command = new Command("compress")
    .description(
      "Compress a model. An interrupted run is resumed by the same command: finished blocks are " +
        "kept in <dir>.state until all is done. A size is of the weight file, whole; the " +
        "tokenizer beside it does not count.",
    )
    .argument("<model>", "a model directory, or a llama2.c checkpoint with its tokenizer.bin");
  addTarget(command);
  addForm(command);
  addWork(command);
  return command.action(async (source: string, options: Options, command: Command) => {
    const form = formOf(options, command);
    const calibration = calibrationOf(options, command);
    const progress = new ProgressLine();
    try {
      if (options.dryRun) {
        const { threads } = options;
        const request = { ...form, threads, signal, ...(calibration && { calibration }) };
        const plan = await planCompression(source, { ...request, onProgress: progress.show });
        progress.clear();
        if (options.json) printJson(planJson(plan));
        else process.stdout.write(`${planText(plan)}\n`);
        return;
      }
      const { out, effort, seed, overwrite, threads } = options;
      if (!out) return command.error("error: required option '--out <dir>' not specified");
      const work = { effort, seed, overwrite, threads, ...memoryOf(options) };
      const rest = { ...work, ...(calibration && { calibration }) };
      const job = compress(source, { ...form, ...rest, out, signal });
      for await (const event of job) progress.show(event);
      progress.clear();
      const report = await job;
      if (options.json) printJson(reportJson(report));
      else process.stdout.write(`${reportText(report)}\n`);
    } finally {
      progress.clear();
    }
  });
}

function addTarget(command: Command): void {
  command
    .option("--bits <n>", "target: bits per weight of the decoder blocks, such as 0.8", number)
    .option("--file-bits <n>", "target: bits of the file over all parameters", number)
    .option("--target-size <size>", "target: bytes of the file, such as 5.8MB or 5.5MiB")
    .option("--budget <size>", "target: bytes of memory to run it in, KV cache included")
    .option("--context <n>", "with --budget: tokens of that cache (default: as trained)", whole);
}

function addForm(command: Command): void {
  command
    .option(
      "--keep <rule>",
      "an exception: <name>=fp16, <name>=<bits> or <name>>=<bits>, with * and ? in the name; may " +
        "be given several times",
      (text: string, before: Keep = {}) => ({ ...before, ...Object.fromEntries([keepRule(text)]) }),
    )
    .addOption(
      new Option("--forms <forms>", "what layers are made of (default: factored)").choices([
        "factored",
        "tables",
        "codes",
        "mixed",
      ]),
    )
    .addOption(
      new Option(
        "--sensitivity <how>",
        "what errors cost: as much per weight in every layer, or as measured (default: assumed)",
      ).choices(["assumed", "measured"]),
    )
    .option("--embeddings <bits>", "of the embeddings: 2, 3, 4, 8, 16 (default: 4)", whole)
    .option("--lm-head <bits>", "of the head (default: as the embeddings)", whole);
}

function addWork(command: Command): void {
  command
    .option("--out <dir>", "the directory to write")
    .option("--dry-run", "print the plan, its bytes and what it would cost, and do nothing")
    .option(
      "--calibration <txt>",
      "text like that of later use; may be given several times (default: the model writes some)",
      (file: string, before: string[] = []) => [...before, file],
    )
    .option("--calibration-tokens <n>", "how many tokens of it (default: by effort)", whole)
    .option("--calibration-context <n>", "tokens of a window of it (default: at most 2048)", whole)
    .addOption(
      new Option("--effort <effort>", "how long to work on it (default: balanced)").choices([
        "fast",
        "balanced",
        "max",
      ]),
    )
    .option("--seed <n>", "the same seed gives the same bytes (default: 0)", whole)
    .option("--overwrite", "replace <dir> if it exists")
    .option("--threads <n>", "threads (default: the machine's performance cores)", whole)
    .option(
      "--memory <size>",
      "what the work may take, such as 8GB, or `any` (default: what the machine has)",
    )
    .option("--json", "print one JSON object");
}

/** How much memory the work may take. */
function memoryOf({ memory }: Options) {
  if (memory === "any") return { onInsufficientMemory: "ignore" as const };
  return memory === undefined ? {} : { memoryBudget: bytesOf("--memory", memory) };
}

/** What the compressed model is to look like. */
function formOf(options: Options, command: Command) {
  const { bits, fileBits, targetSize, budget, context, keep, forms } = options;
  const { sensitivity, embeddings, lmHead } = options;
  const targets: CompressTarget[] = [
    ...(bits === undefined ? [] : [{ bitsPerWeight: bits }]),
    ...(fileBits === undefined ? [] : [{ fileBitsPerWeight: fileBits }]),
    ...(targetSize === undefined ? [] : [{ bytes: targetSize }]),
    ...(budget === undefined ? [] : [{ fitsBudget: budget, contextLength: context }]),
  ];
  const [target] = targets;
  if (!target || targets.length > 1) {
    command.error("error: give one of --bits, --file-bits, --target-size and --budget", {
      exitCode: 2,
    });
  }
  if (context !== undefined && budget === undefined) {
    command.error("error: option '--context <n>' needs --budget", { exitCode: 2 });
  }
  return { target: target as CompressTarget, keep, forms, sensitivity, embeddings, lmHead };
}

function calibrationOf(options: Options, command: Command): Calibration | undefined {
  const { calibration, calibrationTokens, calibrationContext } = options;
  const needing = { tokens: calibrationTokens, context: calibrationContext };
  for (const [name, value] of Object.entries(needing)) {
    if (value === undefined || calibration) continue;
    command.error(`error: option '--calibration-${name} <n>' needs --calibration`, {
      exitCode: 2,
    });
  }
  return calibration && { file: calibration, ...needing };
}
