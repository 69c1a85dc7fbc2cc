/** `subbit inspect`: what is in a model. */
import { Command } from "commander";

import { type Inspection, inspect } from "../inspect.js";
import { byteSize, grouped, printJson, table } from "./terminal.js";

export function inspectCommand(): Command {
  return new Command("inspect")
    .description("Show the tensors of a model, and its bits per weight counted from its files.")
    .argument("<dir>", "a model directory, or a llama2.c checkpoint")
    .option("--json", "print one JSON object")
    .action(async (dir: string, { json }: { json?: true }) => {
      const inspection = await inspect(dir);
      if (json) printJson(asJson(inspection));
      else process.stdout.write(`${asText(inspection)}\n`);
    });
}

function asJson({ architecture, parameters, bytes, bitsPerWeight, tensors }: Inspection) {
  return {
    architecture,
    parameters,
    bytes,
    bits_per_weight: bitsPerWeight,
    tensors: tensors.map(({ name, format, shape, bytes, bitsPerWeight, body }) => ({
      name,
      format,
      shape,
      bytes,
      bits_per_weight: bitsPerWeight,
      body,
    })),
  };
}

/** A model's tensors and totals for people. */
export function asText({
  architecture,
  parameters,
  bytes,
  bitsPerWeight,
  tensors,
}: Inspection): string {
  const rows = tensors.map(({ name, format, shape, bytes, bitsPerWeight, body }) => [
    name,
    format,
    shape.join(" x "),
    grouped(bytes),
    bitsPerWeight.toFixed(3),
    body ? "body" : "",
  ]);
  return [
    table([["tensor", "format", "shape", "bytes", "bits", "part"], ...rows]),
    "",
    `${architecture}, ${grouped(parameters)} parameters, ` +
      `${grouped(bytes)} bytes (${byteSize(bytes)})`,
    `bits per weight: ${bitsPerWeight.body.toFixed(4)} body, ${bitsPerWeight.file.toFixed(4)} file`,
  ].join("\n");
}
