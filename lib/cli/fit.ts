/** `subbit fit`: what a model will take in memory, and on which devices it fits. */
import { Command, Option } from "commander";

import { estimateMemory, type MemoryEstimate, type MemoryItems } from "../memory.js";
import { bytesOf, type EstimateOptions, kvCaches } from "../options.js";
import { shapes } from "../shapes.js";
import { number, whole } from "./arguments.js";
import { byteSize, grouped, printJson, table } from "./terminal.js";

interface Options {
  budget?: string;
  context?: number;
  kv?: EstimateOptions["kvCache"];
  bits?: number;
  threads?: number;
  json?: true;
  markdown?: true;
}

const gibibyte = 2 ** 30;

/**
 * What a process may hold on a device without it turning sluggish or the process being ended:
 * about half of a phone or tablet, of a Mac what leaves the desktop its room. docs/memory.md says
 * where each comes from.
 */
export const devices: readonly { name: string; limitBytes: number }[] = [
  { name: "4 GB", limitBytes: 2 * gibibyte },
  { name: "6 GB", limitBytes: 3 * gibibyte },
  { name: "8 GB", limitBytes: 4.5 * gibibyte },
  { name: "16 GB", limitBytes: 10.5 * gibibyte },
];

interface DeviceVerdict {
  name: string;
  limitBytes: number;
  fits: boolean;
  maxContextLength: number;
}

const itemNames: Readonly<Record<keyof MemoryItems, string>> = {
  weightsBody: "decoder blocks",
  codebooks: "shared tables",
  embeddings: "embeddings",
  lmHead: "head",
  fileRest: "headers, padding",
  kvCache: "KV cache",
  activations: "activations",
  scratch: "scratch",
  rope: "rotary tables",
  loaded: "scales as floats",
  sampling: "sampling",
  threads: "threads",
  tokenizer: "tokenizer",
  gpu: "GPU",
  runtime: "Node and addon",
};
const mappedItems: readonly (keyof MemoryItems)[] = [
  "weightsBody",
  "codebooks",
  "embeddings",
  "lmHead",
  "fileRest",
];

const names = Object.keys(shapes).join(", ");

export function fitCommand(): Command {
  return new Command("fit")
    .description(
      "Show what running a model will take in memory, part by part, and where it fits. Only " +
        "headers are read: a directory whose weight files end behind their headers will do.",
    )
    .argument(
      "<model>",
      `a model directory, a llama2.c checkpoint, a config.json, or a shape: ${names}`,
    )
    .option("--budget <size>", "what it may take, such as 4GB or 3.5GiB (default: this machine)")
    .option("--context <n>", "tokens the KV cache holds (default: the model's)", whole)
    .addOption(new Option("--kv <type>", "the KV cache's numbers (default: f16)").choices(kvCaches))
    .option("--bits <n>", "bits per weight of a shape's decoder blocks (default: 0.8)", number)
    .option("--threads <n>", "threads (default: the machine's performance cores)", whole)
    .option("--json", "print one JSON object")
    .addOption(new Option("--markdown", "print one row of a table for documents").hideHelp())
    .action(async (source: string, { json, markdown, ...given }: Options) => {
      const options = {
        contextLength: given.context,
        kvCache: given.kv,
        bitsPerWeight: given.bits,
        threads: given.threads,
        memoryBudget: given.budget === undefined ? undefined : bytesOf("--budget", given.budget),
      };
      const estimate = await estimateMemory(source, options);
      const verdicts = await Promise.all(
        devices.map(async ({ name, limitBytes }): Promise<DeviceVerdict> => {
          const { fits, maxContextLength } = await estimateMemory(source, {
            ...options,
            memoryBudget: limitBytes,
          });
          return { name, limitBytes, fits: fits.ok, maxContextLength };
        }),
      );
      if (json) printJson(asJson(source, estimate, verdicts));
      else if (markdown) process.stdout.write(`${asRow(source, estimate, verdicts)}\n`);
      else process.stdout.write(`${asText(source, estimate, verdicts)}\n`);
    });
}

function asJson(source: string, estimate: MemoryEstimate, verdicts: readonly DeviceVerdict[]) {
  const { items, peaks, fits } = estimate;
  return {
    model: source,
    architecture: estimate.architecture,
    parameters: estimate.parameters,
    bits_per_weight_body: estimate.bitsPerWeightBody,
    context_length: estimate.contextLength,
    trained_context_length: estimate.trainedContextLength,
    max_context_length: estimate.maxContextLength,
    kv_cache: estimate.kvCache,
    total_bytes: estimate.totalBytes,
    mapped_bytes: estimate.mappedBytes,
    footprint_bytes: estimate.footprintBytes,
    peak_load_bytes: peaks.loadBytes,
    peak_prefill_bytes: peaks.prefillBytes,
    items: Object.fromEntries(
      Object.entries(items).map(([name, bytes]) => [
        `${name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)}_bytes`,
        bytes,
      ]),
    ),
    fits: fits.ok,
    limit_bytes: fits.limitBytes,
    limit_source: fits.limitSource,
    margin_bytes: fits.marginBytes,
    reasons: fits.reasons,
    confidence: estimate.confidence,
    devices: verdicts.map(({ name, limitBytes, fits, maxContextLength }) => ({
      device: name,
      limit_bytes: limitBytes,
      fits,
      max_context_length: maxContextLength,
    })),
  };
}

/** A part's share of the whole in 32 characters: file-backed parts light, private ones solid. */
function bar(bytes: number, total: number, isMapped: boolean): string {
  const width = Math.round((bytes / total) * 32);
  return (isMapped ? "░" : "█").repeat(bytes > 0 ? Math.max(1, width) : 0);
}

function asText(
  source: string,
  estimate: MemoryEstimate,
  verdicts: readonly DeviceVerdict[],
): string {
  const { items, totalBytes, fits } = estimate;
  const rows = (Object.keys(itemNames) as (keyof MemoryItems)[])
    .filter((item) => items[item] > 0)
    .map((item) => [
      itemNames[item],
      mebibytes(items[item]),
      bar(items[item], totalBytes, mappedItems.includes(item)),
    ]);
  const bits = estimate.bitsPerWeightBody.toFixed(2);
  const verdict = fits.ok
    ? `fits: ${mebibytes(fits.marginBytes)} MiB are left`
    : `does not fit: ${mebibytes(-fits.marginBytes)} MiB too much`;
  return [
    `${source}: ${estimate.architecture}, ${grouped(estimate.parameters)} parameters, ` +
      `${bits} bits a block weight, context ${grouped(estimate.contextLength)}, ` +
      `KV cache ${estimate.kvCache}`,
    "",
    table([["part", "MiB", ""], ...rows, ["together", mebibytes(totalBytes), ""]]),
    "",
    `░ file-backed ${byteSize(estimate.mappedBytes)}: the system can take these pages back and ` +
      "read them again",
    `█ private ${byteSize(estimate.footprintBytes)}`,
    "",
    `Limit ${byteSize(fits.limitBytes)} (${limitNames[fits.limitSource]}): ${verdict}.`,
    `Largest context within it: ${contextText(estimate.maxContextLength)}.`,
    "",
    table([
      ["device", "usable", "this context", "largest context"],
      ...verdicts.map(({ name, limitBytes, fits, maxContextLength }) => [
        name,
        byteSize(limitBytes),
        fits ? "fits" : "no",
        contextText(maxContextLength),
      ]),
    ]),
    ...(estimate.confidence === "low"
      ? ["", "Worked out for a shape: a file of this shape may differ by a few per cent."]
      : []),
  ].join("\n");
}

const limitNames: Readonly<Record<MemoryEstimate["fits"]["limitSource"], string>> = {
  budget: "the budget given",
  available: "what this machine has available",
  physical: "this machine's memory",
  cgroup: "this process's control group",
  recommendedMaxWorkingSetSize: "what the GPU may hold",
};

function contextText(tokens: number): string {
  return tokens > 0 ? grouped(tokens) : "none";
}

function mebibytes(bytes: number): string {
  return grouped(Math.ceil(bytes / 2 ** 20));
}

/** One row of the README's table. */
function asRow(source: string, estimate: MemoryEstimate, verdicts: readonly DeviceVerdict[]) {
  const cells = [
    source,
    estimate.bitsPerWeightBody.toFixed(2),
    grouped(estimate.contextLength),
    estimate.kvCache,
    byteSize(estimate.mappedBytes),
    byteSize(estimate.items.kvCache),
    byteSize(estimate.totalBytes),
    ...verdicts.map(({ fits, maxContextLength }) =>
      fits ? "fits" : maxContextLength > 0 ? `to ${grouped(maxContextLength)}` : "no",
    ),
  ];
  return `| ${cells.join(" | ")} |`;
}
