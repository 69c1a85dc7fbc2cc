/**
 * Prints a model's continuation of a prompt as it comes, and stops it after five seconds.
 *
 *     node examples/stream.js models/stories15M/stories15M.bin "Once upon a time"
 */
import { loadModel } from "subbit";

const [path = "models/stories15M/stories15M.bin", prompt = "Once upon a time"] =
  process.argv.slice(2);

const model = await loadModel(path);
const generation = model.generate(prompt, {
  maxTokens: 100,
  signal: AbortSignal.timeout(5000),
  onAbort: "return",
});
process.stdout.write(prompt);
for await (const text of generation.text) process.stdout.write(text);
process.stdout.write("\n");
await model.dispose();
