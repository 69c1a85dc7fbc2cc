/** `subbit generate`: continues a prompt, word by word as it comes. */
import { existsSync } from "node:fs";

import { Command, Option } from "commander";

import { invalidOption } from "../check.js";
import type { GenerationResult } from "../generation.js";
import { loadModel, type Model } from "../model.js";
import { devices, type GenerateOptions, kvCaches, type LoadOptions } from "../options.js";
import { exampleModel } from "../package.js";
import { number, whole } from "./arguments.js";
import { ProgressLine, printJson } from "./terminal.js";

interface Options {
  maxTokens?: number;
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  seed?: number;
  stop?: string[];
  threads?: number;
  device?: (typeof devices)[number];
  kv?: LoadOptions["kvCache"];
  json?: true;
}

export function generateCommand(signal: AbortSignal): Command {
  return new Command("generate")
    .usage("[options] [[<dir>] <prompt>]")
    .description(
      "Continue a prompt. Without --temperature the likeliest token is always taken. Without " +
        "<dir> the small model that comes with the package writes.",
    )
    .argument("[dir]", "a model directory, or a llama2.c checkpoint")
    .argument("[prompt]", "the text to continue")
    .option("--max-tokens <n>", "at most this many tokens (default: until the model ends)", whole)
    .option("--temperature <t>", "0 for the likeliest token; higher is more varied", number)
    .option("--top-k <k>", "sample among the k likeliest tokens", whole)
    .option("--top-p <p>", "sample among the likeliest tokens of this probability", number)
    .option("--min-p <p>", "drop tokens less likely than this times the likeliest", number)
    .option("--seed <n>", "the same seed gives the same text", whole)
    .option("--stop <text...>", "end before this text")
    .option("--threads <n>", "threads (default: the machine's performance cores)", whole)
    .addOption(new Option("--device <name>", "what to run on (default: auto)").choices(devices))
    .addOption(new Option("--kv <type>", "the KV cache's numbers (default: f16)").choices(kvCaches))
    .option("--json", "print one JSON object at the end")
    .action(async (first: string | undefined, second: string | undefined, given: Options) => {
      const { threads, device, kv: kvCache, json, ...options } = given;
      const { dir, prompt } = modelAndPrompt(first, second);
      const progress = new ProgressLine();
      const model = await loadModel(dir, {
        threads,
        device,
        kvCache,
        signal,
        onProgress: progress.show,
      }).finally(() => progress.clear());
      try {
        const request = { ...options, signal };
        if (json) printJson(asJson(prompt, model, await model.generate(prompt, request)));
        else {
          if (first === undefined) process.stdout.write(prompt);
          await stream(model, prompt, request);
        }
      } finally {
        await model.dispose();
      }
    });
}

/** What none, one or two words on the command line mean. */
function modelAndPrompt(first?: string, second?: string) {
  if (first === undefined) return { dir: exampleModel, prompt: "Once upon a time" };
  if (second !== undefined) return { dir: first, prompt: second };
  if (existsSync(first)) {
    throw invalidOption("the prompt", "a text to continue after the model", "none");
  }
  return { dir: exampleModel, prompt: first };
}

async function stream(model: Model, prompt: string, options: GenerateOptions): Promise<void> {
  for await (const chunk of model.generate(prompt, options)) {
    if (chunk.type === "text") process.stdout.write(chunk.text);
    else {
      process.stdout.write("\n");
      const { usage, timing } = chunk;
      if (process.stderr.isTTY) {
        process.stderr.write(
          `(${usage.generatedTokens} tokens, ${timing.decodeTps.toFixed(0)} a second)\n`,
        );
      }
    }
  }
}

function asJson(prompt: string, { device }: Model, result: GenerationResult) {
  const { text, finishReason, usage, timing } = result;
  return {
    prompt,
    text,
    finish_reason: finishReason,
    device: {
      backend: device.backend,
      name: device.name,
      ...(device.reason ? { reason: device.reason } : {}),
    },
    usage: {
      prompt_tokens: usage.promptTokens,
      cached_tokens: usage.cachedTokens,
      generated_tokens: usage.generatedTokens,
    },
    timing: {
      ttft_ms: timing.ttftMs,
      prefill_tps: timing.prefillTps,
      decode_tps: timing.decodeTps,
      total_ms: timing.totalMs,
    },
  };
}
