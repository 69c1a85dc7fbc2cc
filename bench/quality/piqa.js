/**
 * PIQA (Bisk et al. 2020): how often a model finds the right one of two solutions likelier. Its own
 * conventions are those of EleutherAI's harness: the prompt is "Question: ...\nAnswer:", a solution
 * follows a space, and log-likelihoods of solutions are compared plain and per byte. Chance is one
 * half. Questions are lines of JSON: goal, sol1, sol2, label (0 or 1).
 *
 *     node bench/quality/piqa.js <model> --questions <jsonl> [--limit n] [--no-start]
 *         [--threads n] [--json]
 *
 * --no-start leaves out the start token, for models that were trained without one.
 */
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

import { loadModel } from "subbit";

/**
 * @typedef {{ goal: string, sol1: string, sol2: string, label: number }} Question
 * @typedef {{ questions: number, accuracy: number, accuracyNormalized: number,
 *   standardError: number }} Piqa
 * @typedef {Pick<import("subbit").Model, "score"> & {
 *   tokenizer: Pick<import("subbit").Tokenizer, "encode"> }} Scorer
 */

/**
 * @param {string} text
 * @returns {Question[]}
 */
export function parseQuestions(text) {
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  return lines.map((line) => JSON.parse(line));
}

/**
 * The log-likelihood of `continuation` after `prompt`, in nats. The whole is tokenized, and what it
 * has more than the prompt is the continuation: a tokenizer may spell a text otherwise alone.
 * @param {Scorer} model
 * @param {string} prompt
 * @param {string} continuation
 * @param {boolean} bos
 */
export async function logLikelihood(model, prompt, continuation, bos) {
  const before = await model.tokenizer.encode(prompt, { bos });
  const tokens = await model.tokenizer.encode(prompt + continuation, { bos });
  const { logprobs } = await model.score([...tokens]);
  // logprobs[i] is that of tokens[i + 1].
  return logprobs.subarray(before.length - 1).reduce((sum, logprob) => sum + logprob, 0);
}

/**
 * @param {Scorer} model
 * @param {readonly Question[]} questions
 * @param {{ bos: boolean, onQuestion?: (done: number) => void }} options
 * @returns {Promise<Piqa>}
 */
export async function piqa(model, questions, { bos, onQuestion }) {
  let right = 0;
  let rightNormalized = 0;
  for (const [done, { goal, sol1, sol2, label }] of questions.entries()) {
    onQuestion?.(done);
    const prompt = `Question: ${goal}\nAnswer:`;
    const likelihoods = [];
    for (const solution of [sol1, sol2]) {
      const continuation = ` ${solution.trim()}`;
      const sum = await logLikelihood(model, prompt, continuation, bos);
      likelihoods.push({ sum, mean: sum / Buffer.byteLength(continuation) });
    }
    const [first, second] = likelihoods;
    if (!first || !second) continue;
    right += Number(second.sum > first.sum) === label ? 1 : 0;
    rightNormalized += Number(second.mean > first.mean) === label ? 1 : 0;
  }
  const accuracyNormalized = rightNormalized / questions.length;
  return {
    questions: questions.length,
    accuracy: right / questions.length,
    accuracyNormalized,
    standardError: Math.sqrt((accuracyNormalized * (1 - accuracyNormalized)) / questions.length),
  };
}

const usage =
  "usage: node bench/quality/piqa.js <model> --questions <jsonl> [--limit n] [--no-start] " +
  "[--threads n] [--json]\n";

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      questions: { type: "string" },
      limit: { type: "string" },
      "no-start": { type: "boolean" },
      threads: { type: "string" },
      json: { type: "boolean" },
    },
  });
  const [path] = positionals;
  if (!path || !values.questions) {
    process.stderr.write(usage);
    process.exitCode = 2;
    return;
  }
  const all = parseQuestions(readFileSync(values.questions, "utf8"));
  const questions = values.limit === undefined ? all : all.slice(0, Number(values.limit));
  const threads = values.threads === undefined ? undefined : Number(values.threads);
  const model = await loadModel(path, { ...(threads && { threads }), contextLength: 2048 });
  const result = await piqa(model, questions, {
    bos: values["no-start"] !== true,
    onQuestion: (done) => {
      if (process.stderr.isTTY) process.stderr.write(`\r${done} of ${questions.length}`);
    },
  }).finally(() => model.dispose());
  if (process.stderr.isTTY) process.stderr.write("\r\u001b[K");
  const text = values.json
    ? JSON.stringify({
        model: path,
        questions: result.questions,
        accuracy: result.accuracy,
        accuracy_normalized: result.accuracyNormalized,
        standard_error: result.standardError,
      })
    : `${path}: ${(100 * result.accuracyNormalized).toFixed(2)} % per byte, ` +
      `${(100 * result.accuracy).toFixed(2)} % plain, of ${result.questions} questions ` +
      `(standard error ${(100 * result.standardError).toFixed(2)})`;
  process.stdout.write(`${text}\n`);
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) await main();
