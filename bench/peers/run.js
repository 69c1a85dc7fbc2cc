/**
 * Runs subbit and node-llama-cpp beside each other on random models of the same shape, in turns,
 * with the same prompts and token counts, and reports medians and ratios.
 *
 * The peer is installed into a cache directory, from npm, without its install scripts; models are
 * written there and removed unless --keep is given. Figures go to bench/results/, without those by
 * the wall where the engines had to share their processors.
 */
import { fork, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";

import envPaths from "env-paths";
import { shapes, synthesize } from "subbit";

import { nativeAddon } from "../../dist/native.js";
import { record, summary } from "../record.js";
import { ggmlTypes, obstacle, writeGguf } from "./gguf.js";

/**
 * @typedef {import("./gguf.js").GgmlType} GgmlType
 * @typedef {import("./engine.js").RunResult} RunResult
 * @typedef {import("./engine.js").Ready} Ready
 * @typedef {import("./engine.js").EngineOptions} EngineOptions
 */

const peerVersion = "3.22.1";

/** Tokens that keep a round to some seconds: by parameters, the first that is large enough. */
const budgets = [
  { hidden: 1_000, prompt: 128, generate: 64 },
  { hidden: 3_000, prompt: 64, generate: 32 },
  { hidden: Number.POSITIVE_INFINITY, prompt: 32, generate: 16 },
];

const usage = `npm run bench:peers -- [options]

Runs subbit and node-llama-cpp ${peerVersion} in turns on random models of the same shapes.

  --shapes a,b    stories15m, llama-110m, tinyllama-1.1b, llama-2-7b, ...
  --types a,b     the peer's: ${Object.keys(ggmlTypes).join(", ")} (a 7B in Q4_0 takes 4 GB of disk)
  --threads a,b   one row for each count (1,2)
  --rounds n      medians of so many (5)
  --prompt n      tokens; by default so many that a round takes some seconds
  --generate n    tokens decoded behind it
  --context n     (512)
  --bits n        a weight, of subbit's body (0.8)
  --cache dir     where the peer and the models go
  --keep          leaves the models there
  --no-record     keeps the figures out of bench/results
`;

const { values: given } = parseArgs({
  allowNegative: true,
  options: {
    help: { type: "boolean", short: "h", default: false },
    shapes: { type: "string", default: "stories15m,llama-110m,tinyllama-1.1b,llama-2-7b" },
    types: { type: "string", default: "Q1_0,Q4_0" },
    threads: { type: "string", default: "1,2" },
    rounds: { type: "string", default: "5" },
    prompt: { type: "string" },
    generate: { type: "string" },
    context: { type: "string", default: "512" },
    bits: { type: "string", default: "0.8" },
    cache: { type: "string", default: join(envPaths("subbit", { suffix: "" }).cache, "peers") },
    keep: { type: "boolean", default: false },
    record: { type: "boolean", default: true },
  },
});

const say = (/** @type {string} */ line) => process.stdout.write(`${line}\n`);

if (given.help) {
  say(usage);
  process.exit(0);
}

/** Installs the peer where it is not yet, and returns the file to import. */
function installPeer() {
  const folder = join(given.cache, `node-llama-cpp-${peerVersion}`);
  const entry = join(folder, "node_modules/node-llama-cpp/dist/index.js");
  if (existsSync(entry)) return entry;
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "package.json"), '{ "name": "peers", "private": true }\n');
  // Of its many binaries only this machine's, and none of the scripts that fetch or compile others.
  const place = `${process.platform}-${process.arch}`;
  const macs = { "darwin-arm64": "mac-arm64-metal", "darwin-x64": "mac-x64" };
  const binary = `@node-llama-cpp/${new Map(Object.entries(macs)).get(place) ?? place}`;
  const flags = ["--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund", "--save-exact"];
  for (const name of ["node-llama-cpp", binary]) {
    const args = ["install", ...flags, `${name}@${peerVersion}`];
    const { status } = spawnSync("npm", args, { cwd: folder, stdio: "inherit" });
    if (status !== 0) throw new Error(`npm ${args.join(" ")} failed`);
  }
  return entry;
}

/**
 * A child process with an engine in it, stopped whenever it is not asked for something: threads
 * that spin a while after their work would have the other engine's processors.
 */
class Engine {
  /** @param {EngineOptions} options */
  constructor(options) {
    const script = join(import.meta.dirname, "engine.js");
    this.child = fork(script, [JSON.stringify(options)], { serialization: "advanced" });
    /** @type {(value: unknown) => void} */
    this.answer = () => {};
    /** @type {(error: Error) => void} */
    this.fail = () => {};
    this.child.on("message", (message) => this.answer(message));
    this.child.on("exit", (code) => this.fail(new Error(`${options.engine} exited with ${code}`)));
  }

  /** @returns {Promise<any>} */
  next() {
    return new Promise((resolve, reject) => {
      this.answer = resolve;
      this.fail = reject;
    });
  }

  /** @returns {Promise<Ready>} */
  async ready() {
    const ready = await this.next();
    this.child.kill("SIGSTOP");
    return ready;
  }

  /** @param {number[]} prompt @param {number} tokens @returns {Promise<RunResult>} */
  async run(prompt, tokens) {
    this.child.kill("SIGCONT");
    const answer = this.next();
    this.child.send({ prompt, tokens });
    const result = await answer;
    this.child.kill("SIGSTOP");
    return result;
  }

  async stop() {
    this.child.kill("SIGCONT");
    const gone = new Promise((resolve) => this.child.once("exit", resolve));
    this.fail = () => {};
    this.child.disconnect();
    await gone;
  }
}

/** @typedef {{ name: string, format: string, options: EngineOptions, weightBytes: number }} Side */

/**
 * Both engines loaded, one waiting while the other runs.
 * @param {Side[]} sides
 * @param {{ prompt: number, generate: number, rounds: number, vocab: number }} plan
 */
async function duel(sides, { prompt, generate, rounds, vocab }) {
  const engines = [];
  try {
    for (const side of sides) {
      const engine = new Engine(side.options);
      engines.push({ side, engine, ready: await engine.ready(), results: [] });
    }
    const tokens = (/** @type {number} */ round) =>
      Array.from({ length: prompt }, (_, i) => 3 + ((round * 31 + i * 7_919) % (vocab - 3)));
    for (const { engine } of engines) await engine.run(tokens(0).slice(0, 4), 2);
    for (let round = 1; round <= rounds; round++) {
      for (const { engine, results } of engines) {
        /** @type {RunResult[]} */ (results).push(await engine.run(tokens(round), generate));
      }
    }
    return engines.map(({ side, ready, results }) => ({
      side,
      ready: /** @type {Ready} */ (ready),
      results: /** @type {RunResult[]} */ (results),
    }));
  } finally {
    for (const { engine } of engines) await engine.stop();
  }
}

/**
 * @param {Awaited<ReturnType<typeof duel>>[number]} outcome
 * @param {{ shape: string, threads: number, prompt: number, generate: number, kvBytes: number,
 *   bandwidth: number }} setting
 */
function figuresOf({ side, ready, results }, setting) {
  const { shape, threads, prompt, generate, kvBytes, bandwidth } = setting;
  const common = { bench: "peers", engine: side.name, format: side.format, shape, threads };
  const of = (/** @type {(result: RunResult) => number} */ each) => summary(results.map(each));
  const bytes = side.weightBytes + kvBytes * (prompt + (generate + 1) / 2);
  // What the wall says on a machine that does nothing else, as long as all threads are busy.
  const decodeCpu = of((r) => r.decodeCpuMs / generate);
  const memory = { bytes_per_token: bytes, bandwidth_gb_s: bandwidth / 1e9 };
  const part = (1e3 * bytes * threads) / decodeCpu.median / bandwidth;
  const figures = [
    { metric: "prefill", unit: "tok/s", ...of((r) => (1e3 * prompt) / r.prefillMs) },
    { metric: "decode", unit: "tok/s", ...of((r) => (1e3 * generate) / r.decodeMs) },
    { metric: "prefill cpu", unit: "ms/token", ...of((r) => r.prefillCpuMs / prompt) },
    {
      ...{ metric: "decode cpu", unit: "ms/token", ...decodeCpu, ...memory },
      bandwidth_fraction: part,
    },
    { metric: "peak rss", unit: "MB", ...of((r) => r.peakRssBytes / 1e6) },
    { metric: "load", unit: "ms", ...summary([ready.loadMs]) },
  ];
  const share = of((r) => r.decodeCpuMs / r.decodeMs / threads).median;
  return { common, share, figures: figures.map((figure) => ({ ...common, ...figure })) };
}

/** Less of the processors than this, and the clock on the wall tells of other processes. */
const leastShare = 0.9;

/** Says once what the engines are. */
const introduced = new Set();
function introduce(/** @type {string} */ about) {
  if (!introduced.has(about)) say(about);
  introduced.add(about);
}

/** @param {ReturnType<typeof figuresOf>[]} sides ours, then the peer's */
function print([ours, theirs]) {
  if (!ours || !theirs) return;
  const { engine, format, shape, threads } = theirs.common;
  say(`\n${shape}, ${threads} thread(s): subbit ${ours.common.format} against ${engine} ${format}`);
  const figure = (/** @type {number} */ value) => Number(value.toPrecision(4)).toString();
  const percent = (/** @type {number} */ part) => `${(100 * part).toFixed(0)} %`;
  const head = ["", "subbit", "spread", "peer", "spread", "better by"];
  const rows = ours.figures.map((own, i) => {
    const peer = theirs.figures[i] ?? own;
    const ratio = own.unit === "tok/s" ? own.median / peer.median : peer.median / own.median;
    return [
      ...[`${own.metric}, ${own.unit}`, figure(own.median), percent(own.spread)],
      ...[figure(peer.median), percent(peer.spread), `${ratio.toFixed(2)} x`],
    ];
  });
  for (const row of [head, ...rows]) {
    say(row.map((cell, i) => (i === 0 ? cell.padEnd(24) : cell.padStart(11))).join(""));
  }
  for (const { common, share, figures } of [ours, theirs]) {
    const read = figures.find((one) => "bandwidth_fraction" in one);
    if (!read || !("bandwidth_fraction" in read)) continue;
    say(
      `${common.engine} reads ${figure(read.bytes_per_token / 1e6)} MB a token, ` +
        `${percent(read.bandwidth_fraction)} of ${figure(read.bandwidth_gb_s)} GB/s in processor ` +
        `time; it had ${percent(share)} of its processors`,
    );
  }
}

/** @param {string} shape @param {string} peer */
async function compareShape(shape, peer) {
  const config = shapes[shape];
  if (!config) throw new Error(`no such shape; known: ${Object.keys(shapes).join(", ")}`);
  const number = (/** @type {string} */ name) => Number(config[name]);
  const budget = budgets.find(({ hidden }) => number("hidden_size") < hidden) ?? budgets[0];
  const prompt = Number(given.prompt ?? budget?.prompt);
  const generate = Number(given.generate ?? budget?.generate);
  const context = Math.min(Number(given.context), number("max_position_embeddings"));
  const headDim = number("hidden_size") / number("num_attention_heads");
  // Keys and values in f16 on both sides.
  const kvBytes = 4 * number("num_hidden_layers") * number("num_key_value_heads") * headDim;
  const ours = join(given.cache, `${shape}-${given.bits}`);
  if (!existsSync(ours)) {
    await synthesize({ shape, out: ours, bitsPerWeight: Number(given.bits) });
  }
  for (const type of /** @type {GgmlType[]} */ (given.types.split(","))) {
    if (!(type in ggmlTypes)) throw new Error(`no such type; known: ${Object.keys(ggmlTypes)}`);
    const why = obstacle(config, type);
    if (why) {
      say(`\n${shape}: ${why}`);
      continue;
    }
    const theirs = join(given.cache, `${shape}-${type}.gguf`);
    const theirBytes = writeGguf(theirs, config, type);
    for (const threads of given.threads.split(",").map(Number)) {
      const bandwidth = await nativeAddon().readBandwidth(threads).promise;
      const shared = { threads, context, peer };
      const outcomes = await duel(
        [
          {
            ...{ name: "subbit", format: `${given.bits} bits` },
            options: { engine: "subbit", model: ours, ...shared },
            weightBytes: await weightBytes(ours),
          },
          {
            ...{ name: `node-llama-cpp ${peerVersion}`, format: type, weightBytes: theirBytes },
            options: { engine: "llama", model: theirs, ...shared },
          },
        ],
        { prompt, generate, rounds: Number(given.rounds), vocab: number("vocab_size") },
      );
      const setting = { shape, threads, prompt, generate, kvBytes, bandwidth };
      const figures = outcomes.map((outcome) => figuresOf(outcome, setting));
      for (const { ready } of outcomes) introduce(ready.about);
      print(figures);
      if (given.record) {
        const calm = figures.every(({ share }) => share >= leastShare);
        if (!calm) say("other processes had the machine: rates by the wall are not recorded");
        const kept = figures.flatMap((side) => side.figures);
        record(kept.filter(({ unit }) => calm || (unit !== "tok/s" && unit !== "ms")));
      }
    }
    if (!given.keep) rmSync(theirs);
  }
  if (!given.keep) rmSync(ours, { recursive: true });
}

/** What decoding reads of a model of ours. @param {string} path */
async function weightBytes(path) {
  const request = { path, threads: 1, contextLength: 1, unpackToFloat: false };
  const model = await nativeAddon().loadModel({ ...request, kvCache: "f16" }, () => {}).promise;
  const { weightBytesPerToken } = model.facts;
  await model.dispose();
  return weightBytesPerToken;
}

mkdirSync(given.cache, { recursive: true });
const peer = installPeer();
for (const shape of given.shapes.split(",")) await compareShape(shape, peer);
