/**
 * Compresses a model with progress, then says how much was gained and what it cost. Interrupt it
 * with Ctrl-C and start it again: it goes on where it was.
 *
 *     node examples/compress.js models/stories15M/stories15M.bin models/small 0.8 text.txt
 */
import { compress, evaluate, inspect } from "subbit";

const [source = "", out = "", bits = "0.8", text = ""] = process.argv.slice(2);
const stop = new AbortController();
process.once("SIGINT", () => stop.abort());

const job = compress(source, {
  out,
  target: { bitsPerWeight: Number(bits) },
  calibration: { file: text },
  effort: "fast",
  signal: stop.signal,
});
for await (const { phase, fraction = 0, detail = "" } of job) {
  console.log(`${phase} ${Math.floor(100 * fraction)} % ${detail}`);
}

const before = await inspect(source);
const after = await inspect(out);
const { teacher } = await evaluate(out, { file: text, context: 32, windows: 8, teacher: source });
console.log(`${before.bytes} bytes became ${after.bytes}`);
console.log(`${after.bitsPerWeight.body.toFixed(3)} bits per weight in the decoder blocks`);
console.log(`KL divergence from the original: ${teacher?.klMean.toFixed(3)} nats a token`);
