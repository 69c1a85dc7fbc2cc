/**
 * Does anything leak? `npm run soak`: a thousand times a small model is loaded, generates and is
 * disposed; then one model writes tens of thousands of tokens. Resident memory after a warm-up and
 * at the end may differ by a megabyte. Ends with code 1 where it does not hold.
 *
 * Needs a built package; takes some minutes. Run with --expose-gc (the npm script does), because
 * garbage that is not collected yet is no leak.
 */
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const dist = (/** @type {string} */ file) => pathToFileURL(join(root, "dist", file)).href;
const { nativeAddon } = await import(dist("native.js"));
const { exampleModel, loadModel } = await import(dist("index.js"));
const megabyte = 1e6;
const cycles = Number(process.argv[2] ?? 1000);
const tokens = Number(process.argv[3] ?? 40_000);
let failures = 0;

async function resident() {
  // Twice, with a turn between: what finalizers release is collected by the second.
  for (let i = 0; i < 2; i++) {
    globalThis.gc?.();
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return process.memoryUsage().rss;
}

/**
 * @param {string} name @param {number} count @param {number} warm
 * @param {(index: number) => Promise<void>} step
 */
async function soak(name, count, warm, step) {
  let start = 0;
  for (let i = 0; i < count; i++) {
    if (i === warm) start = await resident();
    await step(i);
  }
  const grown = (await resident()) - start;
  const verdict = grown <= megabyte ? "holds" : "LEAKS";
  if (grown > megabyte) failures++;
  const shown = (grown / megabyte).toFixed(2);
  process.stdout.write(`${name}: ${count - warm} rounds after ${warm}, ${shown} MB: ${verdict}\n`);
}

const sampling = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1 };
const penalties = { presencePenalty: 0, frequencyPenalty: 0, logitBias: [], seed: 0n };
const request = {
  path: join(root, "test/fixtures/models/tiny-llama"),
  threads: 2,
  contextLength: 0,
  kvCache: "f16",
  unpackToFloat: false,
  onInsufficientMemory: "ignore",
};

await soak("load, generate, dispose", cycles + cycles / 5, cycles / 5, async (index) => {
  const model = await nativeAddon().loadModel(request, () => {}).promise;
  const prompt = Int32Array.from({ length: 20 }, (_, i) => (index + i) % 60);
  const stopTokens = new Int32Array(0);
  const asked = { ...sampling, ...penalties, prompt, maxTokens: 16, stopTokens };
  await model.generate(asked, () => {}).promise;
  await model.dispose();
});

const model = await loadModel(exampleModel, { threads: 2 });
const rounds = Math.ceil(tokens / 200);
const warm = Math.ceil(rounds / 3); // the JavaScript heap settles slowly
await soak(`one model, 200 tokens a round`, rounds + warm, warm, async (index) => {
  await model.generate(`Story number ${index}: once`, {
    maxTokens: 200,
    temperature: 1,
    seed: index,
  });
});
await model.dispose();
process.exitCode = failures > 0 ? 1 : 0;
