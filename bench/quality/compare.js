/**
 * Compares recipes of compression at equal body bits and equal tuning tokens: held-out divergence
 * from the uncompressed model, perplexity, bits counted from the written file.
 *
 *     npm run bench:quality -- [--model dir] [--text file] [--train file]... [--bits n]
 *         [--tokens n] [--calibration n] [--presets a;b] [--effort fast] [--windows 64]
 *         [--threads n] [--seed n] [--json file] [--keep dir]
 *
 * The first `--windows` windows of 255 tokens behind a start token of `--text` are judged on. What
 * is trained on, at most `--calibration` tokens, are the texts of `--train`, else what comes after
 * those windows. `--tokens` is what every recipe may spend in training (presets.js says how it is
 * counted). Models and text default to ../shared/data. `--keep` keeps the models, each in a
 * directory of the recipe's name.
 */
import { cpSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

import { inspect, loadModel } from "subbit";

import { readText } from "../../dist/calibration.js";
import { runJob } from "../../dist/job.js";
import { nativeAddon } from "../../dist/native.js";
import { requireBos, resolveSource } from "../../dist/source.js";
import { interleaved, leadingWindows, shareTokens, spreadWindows } from "../../dist/windows.js";
import { presets, trainedTokens } from "./presets.js";

const shared = join(import.meta.dirname, "../../../shared/data");
const context = 256;

/**
 * @typedef {{ preset: string, bits: number, kl: number, perplexity: number, top1: number,
 *   tokens: number, seconds: number }} Row
 */

/**
 * The windows that are judged on, from the text's start, and those that are trained on: spread
 * evenly over all that comes after them.
 * @param {Int32Array} ids
 * @param {{ bos: number, judged: number, tokens: number }} options
 */
export function splitText(ids, { bos, judged, tokens }) {
  const rest = ids.subarray(judged * (context - 1));
  return {
    judged: leadingWindows(ids, { bos, context, limit: judged }),
    training: spreadWindows(rest, { bos, context, tokens }),
  };
}

/**
 * The same where texts of their own are trained on: each has an even share of the tokens.
 * @param {Int32Array} ids
 * @param {readonly Int32Array[]} texts
 * @param {{ bos: number, judged: number, tokens: number }} options
 */
export function pairTexts(ids, texts, { bos, judged, tokens }) {
  const lengths = texts.map((text) => text.length);
  const lists = shareTokens(lengths, tokens).map((share, i) =>
    spreadWindows(texts[i] ?? new Int32Array(), { bos, context, tokens: share }),
  );
  return {
    judged: leadingWindows(ids, { bos, context, limit: judged }),
    training: interleaved(lists),
  };
}

/** @param {readonly Row[]} rows */
export function asTable(rows) {
  const head = ["recipe", "body bits", "held-out KL", "perplexity", "top-1", "tokens", "seconds"];
  const lines = [head, head.map((_, i) => (i === 0 ? "---" : "---:"))];
  for (const { preset, bits, kl, perplexity, top1, tokens, seconds } of rows) {
    const share = `${(100 * top1).toFixed(1)} %`;
    const numbers = [bits.toFixed(4), kl.toFixed(4), perplexity.toFixed(2), share];
    const costs = [tokens.toLocaleString("en"), seconds.toFixed(0)];
    lines.push([preset, ...numbers, ...costs]);
  }
  return lines.map((cells) => `| ${cells.join(" | ")} |`).join("\n");
}

/** @param {string} line */
function say(line) {
  process.stdout.write(`${line}\n`);
}

/**
 * @typedef {{ model: string, bits: number, tokens: number, effort: "fast" | "balanced" | "max",
 *   threads: number, seed: number, keep?: string | undefined,
 *   windows: ReturnType<typeof splitText> }} Setting
 */

/** q, k and v stacked; o; gate and up stacked; down: the Llama family's. */
const linearsPerBlock = 4;

/**
 * @param {string} name
 * @param {Setting} setting
 * @returns {Promise<Row>}
 */
async function measure(name, setting) {
  const preset = presets[name];
  if (!preset) throw new Error(`no such preset; known: ${Object.keys(presets).join("; ")}`);
  const { model, bits, tokens, windows, effort, threads, seed, keep } = setting;
  const budget = { tokens, linearsPerBlock, windowTokens: context };
  const stages = preset.stages(budget);
  const directory = mkdtempSync(join(tmpdir(), "subbit-quality-"));
  const out = join(directory, "model");
  try {
    const started = performance.now();
    await runJob(
      (report) =>
        nativeAddon().compress(
          {
            source: model,
            out,
            target: { unit: "bodyBits", amount: bits },
            calibration: windows.training,
            effort,
            seed: BigInt(seed),
            threads,
            state: join(directory, "state"),
            forms: preset.forms ?? "factored",
            stages,
          },
          report,
        ),
      { onProgress: progressOf(name) },
    );
    const seconds = (performance.now() - started) / 1000;
    const { bitsPerWeight } = await inspect(out);
    if (keep) cpSync(out, join(keep, name.replaceAll(/[^a-z]+/g, "-")), { recursive: true });
    const evaluation = { path: out, teacherPath: model, windows: windows.judged, threads };
    const judged = await runJob(
      (report) => nativeAddon().evaluate({ ...evaluation, unpackToFloat: false }, report),
      {},
    );
    return {
      preset: name,
      bits: bitsPerWeight.body,
      kl: judged.teacher?.klMean ?? Number.NaN,
      perplexity: judged.perplexity,
      top1: judged.teacher?.top1Agreement ?? Number.NaN,
      tokens: trainedTokens(stages, budget),
      seconds,
    };
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** One line on a terminal, none elsewhere. @param {string} name */
function progressOf(name) {
  /** @param {import("subbit").CompressEvent} event */
  return ({ phase, fraction = 0, detail = "" }) => {
    if (!process.stderr.isTTY) return;
    process.stderr.write(`\r\u001b[K${name}: ${phase} ${Math.floor(100 * fraction)} % ${detail}`);
  };
}

async function main() {
  const { values } = parseArgs({
    options: {
      model: { type: "string", default: join(shared, "models/stories15M") },
      text: { type: "string", default: join(shared, "text/tinystories-valid.txt") },
      bits: { type: "string", default: "0.8" },
      tokens: { type: "string", default: "400000" },
      calibration: { type: "string", default: "180000" },
      presets: { type: "string", default: "nanoquant;subbit" },
      effort: { type: "string", default: "balanced" },
      windows: { type: "string", default: "64" },
      threads: { type: "string", default: "0" },
      seed: { type: "string", default: "0" },
      json: { type: "string" },
      train: { type: "string", multiple: true, default: [] },
      keep: { type: "string" },
    },
  });
  const source = await resolveSource(values.model);
  const original = await loadModel(values.model);
  const ids = await original.tokenizer.encode(await readText(values.text));
  const texts = [];
  for (const file of values.train)
    texts.push(await original.tokenizer.encode(await readText(file)));
  await original.dispose();
  const split = {
    bos: requireBos(source),
    judged: Number(values.windows),
    tokens: Number(values.calibration),
  };
  const setting = {
    model: source.path,
    bits: Number(values.bits),
    tokens: Number(values.tokens),
    effort: /** @type {"fast" | "balanced" | "max"} */ (values.effort),
    threads: Number(values.threads),
    seed: Number(values.seed),
    keep: values.keep,
    windows: texts.length > 0 ? pairTexts(ids, texts, split) : splitText(ids, split),
  };
  const rows = [];
  for (const name of values.presets.split(";")) {
    rows.push(await measure(name.trim(), setting));
    say(asTable(rows.slice(-1)).split("\n").at(-1) ?? "");
    if (values.json) writeFileSync(values.json, `${JSON.stringify({ values, rows }, null, 1)}\n`);
  }
  say(`\n${asTable(rows)}`);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) await main();
