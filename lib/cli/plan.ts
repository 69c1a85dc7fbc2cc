/** Plans and reports of compressions for people and, as JSON, for programs. */
import type { CompressReport, LayerReport } from "../compress.js";
import type { CompressionPlan, PlannedTensor, PredictedCost } from "../plan.js";
import { bar, byteSize, duration, grouped, table } from "./terminal.js";

/** The whole plan: every tensor, then where the bytes go and what each effort would cost. */
export function planText(plan: CompressionPlan): string {
  const rows = plan.tensors.map((tensor) => [
    tensor.name,
    tensor.format,
    tensor.rows > 0 ? `${tensor.rows} x ${tensor.cols}` : "",
    grouped(tensor.bytes),
    tensor.bitsPerWeight > 0 ? tensor.bitsPerWeight.toFixed(3) : "",
    tensor.predictedError > 0 ? tensor.predictedError.toFixed(3) : "",
  ]);
  return [
    table([["tensor", "format", "shape", "bytes", "bits", "error"], ...rows]),
    "",
    whereTheBytesGo(plan.tensors),
    "",
    total(plan.bytes, plan.bitsPerWeight),
    `running it at context ${plan.memory.contextLength} takes ${byteSize(plan.memory.bytes)}`,
    "",
    ...costText(plan),
    "error: what a fit alone should leave of the squared outputs; tuning comes after",
  ].join("\n");
}

export function planJson(plan: CompressionPlan) {
  return {
    bytes: plan.bytes,
    body_bytes: plan.bodyBytes,
    bits_per_weight: plan.bitsPerWeight,
    memory: { bytes: plan.memory.bytes, context_length: plan.memory.contextLength },
    gemm_gflops: plan.gemmGflops,
    costs: plan.costs.map(({ effort, ms, peakBytes, privateBytes, memory, stages }) => ({
      effort,
      predicted_ms: ms,
      predicted_peak_bytes: peakBytes,
      predicted_private_bytes: privateBytes,
      memory,
      stages,
    })),
    tensors: plan.tensors.map(({ bitsPerWeight, predictedError, ...tensor }) => ({
      ...tensor,
      bits_per_weight: bitsPerWeight,
      predicted_error: predictedError,
    })),
  };
}

/** What came out: where the bytes went, where the error is, what it means for the text. */
export function reportText(report: CompressReport): string {
  const { out, bytes, bitsPerWeight, plan, perLayer, quality, tuned, wallMs, stages } = report;
  return [
    whereTheBytesGo(plan.tensors),
    "",
    ...whereTheErrorIs(perLayer),
    `${out}: ${total(bytes, bitsPerWeight)}`,
    ...(quality ? [qualityText(quality)] : []),
    ...(tuned ? [] : ["fitted only: nothing was tuned"]),
    `took ${duration(wallMs)}${predicted(plan.costs[0])}: ${stagesText(stages)}`,
  ].join("\n");
}

export function reportJson(report: CompressReport) {
  const { quality } = report;
  return {
    out: report.out,
    bits_per_weight: report.bitsPerWeight,
    bytes: report.bytes,
    calibration: report.calibration,
    resumed_blocks: report.resumedBlocks,
    tuned: report.tuned,
    ...(quality && {
      quality: {
        text: quality.text,
        windows: quality.windows,
        tokens: quality.tokens,
        perplexity: quality.perplexity,
        kl_mean: quality.klMean,
        kl_p99: quality.klP99,
        top1_agreement: quality.top1Agreement,
      },
    }),
    wall_ms: report.wallMs,
    stages: report.stages,
    linears: report.perLayer.map(({ bitsPerWeight, weightError, outputError, ...layer }) => ({
      ...layer,
      bits_per_weight: bitsPerWeight,
      weight_error: weightError,
      output_error: outputError,
    })),
    plan: planJson(report.plan),
  };
}

function total(bytes: number, { body, file }: { body: number; file: number }): string {
  const bits = `${body.toFixed(4)} bits a weight in the blocks, ${file.toFixed(4)} over the file`;
  return `${grouped(bytes)} bytes (${byteSize(bytes)}), ${bits}`;
}

const parts: Readonly<Record<PlannedTensor["part"], string>> = {
  body: "blocks",
  embeddings: "embeddings",
  lmHead: "head",
  norms: "norms",
  header: "header",
};

function whereTheBytesGo(tensors: readonly PlannedTensor[]): string {
  const bytes = new Map<string, number>();
  for (const tensor of tensors) {
    bytes.set(tensor.part, (bytes.get(tensor.part) ?? 0) + tensor.bytes);
  }
  const all = [...bytes.values()].reduce((sum, count) => sum + count, 0);
  const rows = Object.entries(parts).flatMap(([part, name]) => {
    const own = bytes.get(part);
    if (own === undefined || all === 0) return [];
    const share = own / all;
    const percent = `${(100 * share).toFixed(1)} %`.padStart(7);
    return [[name, grouped(own), percent, bar(share, 30)]];
  });
  return table([["part", "bytes", "share", ""], ...rows]);
}

/** A line for each block, a column for each kind of linear: bits and the error of its fit. */
function whereTheErrorIs(layers: readonly LayerReport[]): string[] {
  const kinds: string[] = [];
  const blocks = new Map<string, Map<string, LayerReport>>();
  for (const layer of layers) {
    const [, block = "", kind = layer.name] = /\.(\d+)\.(.*)$/.exec(layer.name) ?? [];
    if (!kinds.includes(kind)) kinds.push(kind);
    blocks.set(block, (blocks.get(block) ?? new Map()).set(kind, layer));
  }
  if (blocks.size === 0) return [];
  const worst = Math.max(...layers.map(({ outputError }) => outputError), Number.MIN_VALUE);
  const cell = (layer: LayerReport | undefined) => {
    if (!layer) return "";
    const { bitsPerWeight, outputError } = layer;
    const figures = `${bitsPerWeight.toFixed(2).padStart(5)} ${outputError.toFixed(3)}`;
    return `${figures} ${bar(outputError / worst, 8)}`;
  };
  const rows = [...blocks].map(([block, own]) => [
    block,
    ...kinds.map((kind) => cell(own.get(kind))),
  ]);
  return [
    table([["block", ...kinds], ...rows]),
    "(bits a weight, and what its fit left of the squared outputs before tuning)",
    "",
  ];
}

function qualityText({ perplexity, klMean, top1Agreement, tokens }: NonNullable<Quality>): string {
  const before = perplexity.before.toFixed(2);
  return (
    `on ${grouped(tokens)} held-out tokens: ` +
    `perplexity ${before} -> ${perplexity.after.toFixed(2)}, ` +
    `KL divergence ${klMean.toFixed(4)}, same likeliest token ${(100 * top1Agreement).toFixed(1)} %`
  );
}
type Quality = CompressReport["quality"];

function costText({ costs, gemmGflops }: CompressionPlan): string[] {
  const rows = costs.map((cost) => [
    cost.effort,
    duration(cost.ms),
    byteSize(cost.privateBytes),
    memoryText(cost),
    stagesText(cost.stages),
  ]);
  return [
    `predicted cost on this machine (matrix products: ${gemmGflops.toFixed(0)} GFLOP/s)`,
    table([["effort", "time", "memory", "most of it", "time goes to"], ...rows]),
    "memory: private to the process at its peak, beside up to " +
      `${mappedText(costs)} of mapped files`,
    "",
  ];
}

/** The largest part, which is what a smaller machine would have to do without. */
function memoryText({ memory }: PredictedCost): string {
  const largest = [...memory.stages].sort((a, b) => b.bytes - a.bytes)[0];
  return largest ? `${largest.name} ${byteSize(largest.bytes)}` : "";
}

function mappedText(costs: readonly PredictedCost[]): string {
  const most = costs.map(({ memory }) => memory.original + memory.result);
  return byteSize(Math.max(0, ...most));
}

function stagesText(stages: readonly { name: string; ms: number }[]): string {
  const long = stages.filter(({ ms }) => ms >= 100);
  return long.map(({ name, ms }) => `${name} ${duration(ms)}`).join(", ");
}

function predicted(cost: PredictedCost | undefined): string {
  return cost ? ` (predicted ${duration(cost.ms)})` : "";
}
