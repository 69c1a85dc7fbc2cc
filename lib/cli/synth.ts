/** `subbit synth`: a random model of a true shape, for benchmarks. */
import { Command } from "commander";

import { shapes } from "../shapes.js";
import { type SynthesizeReport, synthesize } from "../synthesize.js";
import { number, whole } from "./arguments.js";
import { byteSize, grouped, ProgressLine, printJson } from "./terminal.js";

interface Options {
  shape: string;
  bits?: number;
  out: string;
  seed?: number;
  json?: true;
}

export function synthCommand(signal: AbortSignal): Command {
  return new Command("synth")
    .description(
      "Write a model of a true shape with random codes, to measure the speed and the memory that " +
        "a compressed model of this shape would have.",
    )
    .requiredOption(
      "--shape <shape>",
      `the path of a config.json, or one of ${Object.keys(shapes).join(", ")}`,
    )
    .option("--bits <n>", "bits per weight of the decoder blocks, at most (default: 0.8)", number)
    .requiredOption("--out <dir>", "the directory to write; it must not exist yet")
    .option("--seed <n>", "the same seed gives the same bytes (default: 0)", whole)
    .option("--json", "print one JSON object")
    .action(async ({ bits, json, ...options }: Options) => {
      const progress = new ProgressLine();
      const report = await synthesize({
        ...options,
        bitsPerWeight: bits,
        signal,
        onProgress: progress.show,
      }).finally(() => progress.clear());
      if (json) printJson(asJson(report));
      else process.stdout.write(`${asText(report)}\n`);
    });
}

function asJson({ out, parameters, bitsPerWeight, bytes, wallMs }: SynthesizeReport) {
  return { out, parameters, bits_per_weight: bitsPerWeight, bytes, wall_ms: wallMs };
}

function asText({ out, parameters, bitsPerWeight, bytes, wallMs }: SynthesizeReport): string {
  return [
    `${out}: ${grouped(parameters)} random weights in ${grouped(bytes)} bytes (${byteSize(bytes)})`,
    `bits per weight: ${bitsPerWeight.body.toFixed(4)} body, ${bitsPerWeight.file.toFixed(4)} file`,
    `took ${(wallMs / 1000).toFixed(1)} s`,
  ].join("\n");
}
