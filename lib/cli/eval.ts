/** `subbit eval`: how well a model predicts a text, and how near it is to another model. */
import { Command } from "commander";

import { type Evaluation, evaluate } from "../evaluate.js";
import { number, whole } from "./arguments.js";
import { grouped, ProgressLine, printJson, table } from "./terminal.js";

interface Options {
  text: string;
  windows: number;
  context: number;
  teacher?: string;
  threads?: number;
  json?: true;
}

export function evalCommand(signal: AbortSignal): Command {
  return new Command("eval")
    .description(
      "Measure a model's perplexity on a text: tokenized whole, cut into windows of context - 1 " +
        "tokens, each behind the start token.",
    )
    .argument("<dir>", "a model directory, or a llama2.c checkpoint")
    .requiredOption("--text <file>", "the text, UTF-8")
    .option("--windows <n>", "how many windows from its start, at most", whole, 64)
    .option("--context <n>", "tokens of a window", whole, 256)
    .option("--teacher <dir>", "compare with this model: KL divergence and top-1 agreement")
    .option("--threads <n>", "threads (default: the machine's performance cores)", number)
    .option("--json", "print one JSON object")
    .action(async (dir: string, { text, json, ...options }: Options) => {
      const progress = new ProgressLine();
      try {
        const evaluation = await evaluate(dir, {
          ...options,
          file: text,
          signal,
          onProgress: progress.show,
        });
        progress.clear();
        if (json) printJson(asJson(evaluation));
        else process.stdout.write(`${asText(evaluation)}\n`);
      } finally {
        progress.clear();
      }
    });
}

function asJson({ perplexity, tokens, windows, teacher }: Evaluation) {
  return {
    perplexity,
    tokens,
    windows,
    ...(teacher && {
      teacher_perplexity: teacher.perplexity,
      kl_mean: teacher.klMean,
      kl_p99: teacher.klP99,
      top1_agreement: teacher.top1Agreement,
    }),
  };
}

function asText({ perplexity, tokens, windows, teacher }: Evaluation): string {
  const rows = [
    ["perplexity", perplexity.toFixed(4)],
    ["predictions", grouped(tokens)],
    ["windows", grouped(windows)],
  ];
  if (teacher) {
    rows.push(
      ["teacher's perplexity", teacher.perplexity.toFixed(4)],
      ["KL divergence, mean", teacher.klMean.toFixed(5)],
      ["KL divergence, 99th percentile", teacher.klP99.toFixed(5)],
      ["same likeliest token", `${(100 * teacher.top1Agreement).toFixed(2)} %`],
    );
  }
  return table(rows);
}
