/**
 * Three different continuations of one prompt, each repeatable by its seed, with their speed.
 *
 *     node examples/sample.js models/stories15M/stories15M.bin "The dragon"
 */
import { loadModel } from "subbit";

const [path = "models/stories15M/stories15M.bin", prompt = "The dragon"] = process.argv.slice(2);

const model = await loadModel(path);
for (const seed of [1, 2, 3]) {
  const options = { seed, temperature: 0.8, topP: 0.9, maxTokens: 40, stop: "\n" };
  const { text, usage, timing } = await model.generate(prompt, options);
  console.log(`${prompt}${text}`);
  console.log(`  (${usage.generatedTokens} tokens, ${timing.decodeTps.toFixed(0)} a second)`);
}
await model.dispose();
