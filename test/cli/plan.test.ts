/** What a person reads of a plan and a report, and what a program does. */
import { expect, test } from "vitest";

import { planJson, planText, reportJson, reportText } from "../../lib/cli/plan.js";
import type { CompressionPlan, CompressReport } from "../../lib/index.js";

const plan: CompressionPlan = {
  tensors: [
    {
      ...{ name: "model.layers.0.mlp.down_proj", format: "factored r=32", part: "body" },
      ...{ rows: 64, cols: 128, bytes: 2500, bitsPerWeight: 2.441, predictedError: 0.25 },
    },
    {
      ...{ name: "model.embed_tokens.int4", format: "int4", part: "embeddings" },
      ...{ rows: 512, cols: 64, bytes: 7500, bitsPerWeight: 1.831, predictedError: 0.009 },
    },
  ],
  bitsPerWeight: { body: 2.441, file: 1.953 },
  bytes: 10_000,
  bodyBytes: 2500,
  memory: { bytes: 20_480, contextLength: 256 },
  costs: [
    {
      ...{ effort: "fast", ms: 61_000, peakBytes: 2 ** 21, privateBytes: 2 ** 20 },
      memory: {
        ...{ original: 2 ** 19, result: 2 ** 19, process: 4000, threads: 900, tokenizer: 0 },
        ...{ embeddings: 50, text: 60, stages: [{ name: "tune", bytes: 2 ** 19 }] },
      },
      stages: [{ name: "fit", ms: 6e4 }],
    },
  ],
  gemmGflops: 42.4,
};

const report: CompressReport = {
  out: "small",
  bitsPerWeight: plan.bitsPerWeight,
  bytes: plan.bytes,
  perLayer: [
    {
      ...{ name: "model.layers.0.mlp.down_proj", format: "factored r=32", rows: 64, cols: 128 },
      ...{ bytes: 2500, bitsPerWeight: 2.441, weightError: 0.3, outputError: 0.2 },
    },
  ],
  plan,
  calibration: { tokens: 10, windows: 1, source: "given" },
  resumedBlocks: 0,
  tuned: true,
  stages: [{ name: "fit", ms: 59_000 }],
  wallMs: 62_000,
  quality: {
    ...{ text: "held out", windows: 1, tokens: 1234, perplexity: { before: 4.8, after: 12.34 } },
    ...{ klMean: 0.61, klP99: 3, top1Agreement: 0.655 },
  },
};

test("a plan shows every tensor, where the bytes go, and what it costs as a prediction", () => {
  const text = planText(plan);
  for (const part of [
    /model\.layers\.0\.mlp\.down_proj +factored r=32 +64 x 128 +2,500 +2\.441 +0\.250/,
    /embeddings +7,500 +75\.0 % +█{22}▌/,
    /running it at context 256 takes 20\.0 KiB/,
    /predicted.*42 GFLOP/,
    /fast +1 min 1 s +1\.0 MiB +tune 512\.0 KiB +fit 1 min 0 s/,
  ]) {
    expect(text).toMatch(part);
  }
  expect(planJson(plan)).toMatchObject({
    body_bytes: 2500,
    costs: [{ effort: "fast", predicted_ms: 61_000 }],
    tensors: [{ predicted_error: 0.25, part: "body" }, { part: "embeddings" }],
  });
});

test("a report shows where the error is and what became of the text", () => {
  const text = reportText(report);
  for (const part of [
    /block +mlp\.down_proj/,
    /0 +2\.44 0\.200 █{8}/,
    /1,234 held-out tokens: perplexity 4\.80 -> 12\.34, KL divergence 0\.6100, .* 65\.5 %/,
    /took 1 min 2 s \(predicted 1 min 1 s\): fit 59 s/,
  ]) {
    expect(text).toMatch(part);
  }
  const { quality: _, ...rest } = { ...report, tuned: false };
  expect(reportText(rest)).toContain("nothing was tuned");
  expect(reportText(rest)).not.toContain("perplexity");
  expect(reportJson(report)).toMatchObject({
    quality: { kl_mean: 0.61, perplexity: { after: 12.34 } },
    plan: { bytes: 10_000 },
    linears: [{ output_error: 0.2 }],
  });
});
