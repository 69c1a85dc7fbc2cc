/** `subbit compress`: a model in, a smaller model out. */
import { Command, Option } from "commander";

import { type CompressReport, compress } from "../compress.js";
import type { Effort } from "../options.js";
import { number, whole } from "./arguments.js";
import { byteSize, grouped, ProgressLine, printJson } from "./terminal.js";

interface Options {
  bits: number;
  out: string;
  calibration?: string[];
  calibrationTokens?: number;
  calibrationContext?: number;
  effort?: Effort;
  seed?: number;
  overwrite?: true;
  threads?: number;
  json?: true;
}

export function compressCommand(signal: AbortSignal): Command {
  return new Command("compress")
    .description(
      "Compress a model. An interrupted run is resumed by the same command: finished blocks are " +
        "kept in <dir>.state until all is done.",
    )
    .argument("<model>", "a model directory, or a llama2.c checkpoint with its tokenizer.bin")
    .requiredOption("--bits <n>", "bits per weight of the decoder blocks, such as 0.8", number)
    .requiredOption("--out <dir>", "the directory to write")
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
    .option("--json", "print one JSON object")
    .action(async (source: string, options: Options, command: Command) => {
      const { bits, calibration, calibrationTokens, calibrationContext, json, ...rest } = options;
      const needing = { tokens: calibrationTokens, context: calibrationContext };
      for (const [name, value] of Object.entries(needing)) {
        if (value === undefined || calibration) continue;
        command.error(`error: option '--calibration-${name} <n>' needs --calibration`, {
          exitCode: 2,
        });
      }
      const job = compress(source, {
        ...rest,
        target: { bitsPerWeight: bits },
        ...(calibration && { calibration: { file: calibration, ...needing } }),
        signal,
      });
      const progress = new ProgressLine();
      try {
        for await (const event of job) progress.show(event);
      } finally {
        progress.clear();
      }
      const report = await job;
      if (json) printJson(asJson(report));
      else process.stdout.write(`${asText(report)}\n`);
    });
}

function asJson(report: CompressReport) {
  return {
    out: report.out,
    bits_per_weight: report.bitsPerWeight,
    bytes: report.bytes,
    calibration: report.calibration,
    resumed_blocks: report.resumedBlocks,
    tuned: report.tuned,
    wall_ms: report.wallMs,
    linears: report.perLayer.map(({ bitsPerWeight, weightError, outputError, ...layer }) => ({
      ...layer,
      bits_per_weight: bitsPerWeight,
      weight_error: weightError,
      output_error: outputError,
    })),
  };
}

function asText({ out, bitsPerWeight, bytes, tuned, wallMs }: CompressReport): string {
  return [
    `${out}: ${grouped(bytes)} bytes (${byteSize(bytes)})`,
    `bits per weight: ${bitsPerWeight.body.toFixed(4)} body, ${bitsPerWeight.file.toFixed(4)} file`,
    ...(tuned ? [] : ["fitted only: the model is too large to be tuned as a whole"]),
    `took ${(wallMs / 1000).toFixed(1)} s`,
  ].join("\n");
}
