/**
 * Planned against measured memory: `npm run prove:memory [-- --shapes a,b] [--contexts 512,4096]
 * [--kv f16,int8] [--keep <dir>]`.
 *
 * For each shape it writes a random model, asks `subbit fit --json` what a process will hold, then
 * runs that process with the context full and every weight touched, and compares with the peak that
 * the system measured. Twice in one process, too. Where this machine lets a memory control group be
 * made, it also runs the models that must fit a device inside the device's limit. Ends with code 1
 * where a plan is below what was measured, or more than 3 % and 16 MB above it.
 *
 * Needs a built package (`npm run build`) and disk for one model at a time.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { freemem, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const cli = join(root, "dist", "cli", "main.js");
const dist = (/** @type {string} */ file) => pathToFileURL(join(root, "dist", file)).href;
const megabyte = 1e6;

const { values: options } = parseArgs({
  options: {
    shapes: { type: "string", default: "stories15m,llama-110m,tinyllama-1.1b,llama-2-7b" },
    contexts: { type: "string", default: "256,2048,8192" },
    kv: { type: "string", default: "f16" },
    bits: { type: "string", default: "0.8" },
    keep: { type: "string" },
    limits: { type: "boolean", default: false },
    table: { type: "boolean", default: false },
    json: { type: "boolean", default: false },
  },
});

/** @param {string[]} args */
function subbit(args) {
  const text = execFileSync(process.execPath, [cli, ...args], { encoding: "utf8" });
  return JSON.parse(text);
}

/**
 * A random model of a shape that may be run with as long a context as is asked for.
 * @param {string} shape @param {number} context @param {string} bits @param {string} folder
 */
async function modelOf(shape, context, bits, folder) {
  const dir = join(folder, `${shape}-${bits}`);
  if (existsSync(dir)) return dir;
  const { shapes } = await import(dist("shapes.js"));
  const config = { ...shapes[shape] };
  config.max_position_embeddings = Math.max(config.max_position_embeddings, context);
  const path = join(folder, `${shape}.json`);
  writeFileSync(path, JSON.stringify(config));
  subbit(["synth", "--shape", path, "--bits", bits, "--out", dir, "--json"]);
  return dir;
}

/** What runs in the measured process: one model after another, all alive at the end. */
const sessions = `
const { nativeAddon } = await import(process.argv[1]);
const { estimateMemory } = await import(process.argv[2]);
const [path, contextLength, kvCache, count] = process.argv.slice(3);
const estimateOf = { contextLength: Number(contextLength), kvCache, threads: 2 };
const request = { path, ...estimateOf, unpackToFloat: false,
  onInsufficientMemory: "ignore" };
let planned = 0;
const alive = [];
for (let i = 0; i < Number(count); i++) {
  planned = (await estimateMemory(path, estimateOf)).totalBytes;
  const model = await nativeAddon().loadModel(request, () => {}).promise;
  alive.push(model);
  const room = Number(contextLength) - 136;
  await model.fillContext(Math.max(0, room)).promise;
  const prompt = new Int32Array(Math.max(0, room) + Math.min(128, Number(contextLength) - 8));
  for (let t = Math.max(0, room); t < prompt.length; t++) prompt[t] = 1 + t % 200;
  await model.generate({ prompt, maxTokens: 8, stopTokens: new Int32Array(0), temperature: 0,
    topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, presencePenalty: 0, frequencyPenalty: 0,
    logitBias: [], seed: 0n }, () => {}).promise;
}
const report = alive[alive.length - 1].memory();
console.log(JSON.stringify({ planned, measured: nativeAddon().peakMemory(),
  unplanned: report.unplannedBytes, arena: report.arenaTouchedBytes,
  arenaPlanned: report.arenaPlannedBytes, process: report.process }));
process.exit(0);
`;

/**
 * @param {{ dir: string, context: number, kv: string, count: number }} run
 * @param {string[]} [prefix] a command that runs its arguments
 */
function measure({ dir, context, kv, count }, prefix = []) {
  const args = [...prefix, process.execPath, "--input-type=module", "-e", sessions];
  const wanted = [dist("native.js"), dist("memory.js"), dir, `${context}`, kv, `${count}`];
  const [command = "", ...rest] = [...args, ...wanted];
  const { status, stdout, stderr, signal } = spawnSync(command, rest, { encoding: "utf8" });
  if (status !== 0) return { failure: signal ?? stderr.trim().split("\n").at(-1) ?? `${status}` };
  return JSON.parse(stdout);
}

/** @param {Parameters<typeof measure>[0]} run @param {string[]} common */
function benchmark({ dir, context }, common) {
  const prompt = `${Math.min(128, context - 8)}`;
  const work = ["--fill-context", "--prompt", prompt, "--generate", "8", "--repeats", "1"];
  return { measured: subbit(["bench", dir, ...work, ...common]).peak_rss_bytes, unplanned: 0 };
}

const rows = [
  ["shape", "context", "KV", "models", "planned MB", "measured MB", "over MB", "over %"],
];
let failures = 0;

/** @param {string} name @param {Parameters<typeof measure>[0]} run */
function prove(name, run) {
  // Commands hold the same before a model is there: `fit` plans for what `bench` measures. Two
  // models in one process are planned for by that process.
  const common = ["--kv", run.kv, "--context", `${run.context}`, "--threads", "2", "--json"];
  const result = run.count === 1 ? benchmark(run, common) : measure(run);
  const shown = [name, `${run.context}`, run.kv, `${run.count}`];
  if (result.failure) {
    failures++;
    rows.push([...shown, "failed:", result.failure, "", ""]);
    return;
  }
  const planned =
    run.count === 1 ? subbit(["fit", run.dir, ...common]).total_bytes : result.planned;
  const over = planned - result.measured;
  const isGood = over >= 0 && over <= Math.max(0.03 * result.measured, 16 * megabyte);
  if (!isGood || result.unplanned > 0) failures++;
  rows.push([
    ...shown,
    (planned / megabyte).toFixed(1),
    (result.measured / megabyte).toFixed(1),
    (over / megabyte).toFixed(1),
    ((100 * over) / result.measured).toFixed(2) + (isGood ? "" : " !"),
  ]);
  process.stderr.write(`${rows.at(-1)?.join("  ")}\n`);
}

/**
 * A control group of so many bytes, page cache and swap included; undefined where none can be made.
 * @param {number} bytes
 */
function groupOf(bytes) {
  const version1 = `/sys/fs/cgroup/memory/subbit-${process.pid}`;
  const version2 = `/sys/fs/cgroup/subbit-${process.pid}`;
  for (const { folder, file } of [
    { folder: version1, file: "memory.limit_in_bytes" },
    { folder: version2, file: "memory.max" },
  ]) {
    try {
      mkdirSync(folder);
      writeFileSync(join(folder, file), `${bytes}`);
      return {
        prefix: ["/bin/sh", "-c", `echo $$ > ${folder}/cgroup.procs; exec "$@"`, "sh"],
        peak: () => {
          const name = file === "memory.max" ? "memory.peak" : "memory.max_usage_in_bytes";
          return Number(readFileSync(join(folder, name), "utf8"));
        },
        // A control group's files cannot be unlinked; the folder can be removed as it is.
        remove: () => spawnSync("rmdir", [folder]),
      };
    } catch {
      spawnSync("rmdir", [folder]);
    }
  }
  return undefined;
}

/** Models that must run inside a device's share: body bits, context, KV cache, bytes. */
const devices = [
  { shape: "llama-2-7b", bits: "0.8", context: 4096, bytes: 2 * 2 ** 30 },
  { shape: "llama-2-13b", bits: "0.8", context: 4096, bytes: 4e9 },
  { shape: "llama-30b", bits: "0.55", context: 2048, bytes: 4.5e9 },
];

/**
 * Drops the pages of a model's weights from the cache, so that the group has to pay for them. They
 * would count towards whoever read them first: here, whoever wrote the model.
 * @param {string} dir
 */
function forgetPages(dir) {
  const file = join(dir, "model.safetensors");
  spawnSync("sync", [file]);
  spawnSync("dd", [`if=${file}`, "iflag=nocache", "count=0"]);
}

/** @param {(typeof devices)[number]} device @param {string} folder @param {string} kv */
async function runInside({ shape, bits, context, bytes }, folder, kv) {
  const dir = await modelOf(shape, context, bits, folder);
  forgetPages(dir);
  const group = groupOf(bytes);
  const label = `${shape} at ${bits}, context ${context}, ${kv}, in ${(bytes / 1e9).toFixed(2)} GB`;
  const result = measure({ dir, context, kv, count: 1 }, group?.prefix);
  const peak = group ? `group peak ${(group.peak() / megabyte).toFixed(0)} MB` : "no control group";
  group?.remove();
  if (result.failure) failures++;
  const outcome = result.failure
    ? `failed: ${result.failure}`
    : `ran, resident peak ${(result.measured / megabyte).toFixed(0)} MB`;
  process.stdout.write(`${label}: ${outcome} (${peak})\n`);
}

/**
 * The README's table: sizes that people ask for, with the vocabularies of Llama 2 and 3.
 * @param {string} folder
 */
async function printTable(folder) {
  const { shapes } = await import(dist("shapes.js"));
  const heads = ["model", "bits", "context", "KV", "weights", "KV cache", "in all"];
  const lines = [
    `| ${[...heads, ...["4 GB", "6 GB", "8 GB", "16 GB"]].join(" | ")} |`,
    `| ${Array(11).fill("---").join(" | ")} |`,
  ];
  for (const [shape, label, bits] of [
    ["llama-2-7b", "7B", "0.8"],
    ["llama-2-13b", "13B", "0.8"],
    ["llama-30b", "30B", "0.55"],
  ]) {
    for (const vocab of [32_000, 128_256]) {
      const path = join(folder, `${label}-${vocab}.json`);
      const config = { ...shapes[`${shape}`], vocab_size: vocab, max_position_embeddings: 32_768 };
      writeFileSync(path, JSON.stringify(config));
      for (const kv of options.kv.split(",")) {
        const args = ["--context", "4096", "--kv", kv, "--bits", `${bits}`, "--threads", "4"];
        const row = execFileSync(process.execPath, [cli, "fit", path, ...args, "--markdown"]);
        lines.push(`${row}`.trim().replace(path, `${label}, ${vocab / 1000}k`.replace(".256", "")));
      }
    }
  }
  process.stdout.write(`${lines.join("\n")}\n`);
}

const folder = options.keep ?? mkdtempSync(join(tmpdir(), "subbit-memory-"));
mkdirSync(folder, { recursive: true });
const contexts = options.contexts.split(",").map(Number);
const kvs = options.kv.split(",");
try {
  if (options.table) await printTable(folder);
  for (const shape of options.limits || options.table ? [] : options.shapes.split(",")) {
    const dir = await modelOf(shape, Math.max(...contexts), options.bits, folder);
    for (const context of contexts) {
      for (const kv of kvs) {
        for (const count of [1, 2]) {
          const { total_bytes: total } = subbit([
            "fit",
            dir,
            "--context",
            `${context}`,
            "--kv",
            kv,
            "--json",
          ]);
          if (total * count > 0.9 * freemem()) continue;
          prove(shape, { dir, context, kv, count });
        }
      }
    }
    if (!options.keep) rmSync(dir, { recursive: true });
  }
  if (options.table) {
    // Printed already.
  } else if (options.limits) {
    for (const device of devices) await runInside(device, folder, kvs.at(-1) ?? "f16");
  } else {
    const widths =
      rows[0]?.map((_, c) => Math.max(...rows.map((row) => row[c]?.length ?? 0))) ?? [];
    const lines = rows.map((row) => row.map((cell, c) => cell.padStart(widths[c] ?? 0)).join("  "));
    process.stdout.write(`${lines.join("\n")}\n`);
  }
} finally {
  if (!options.keep) rmSync(folder, { recursive: true, force: true });
}
process.exitCode = failures > 0 ? 1 : 0;
