/** `subbit bench`: how fast a model runs on this machine, and in how much memory. */
import { Command, Option } from "commander";

import { type BenchmarkReport, benchmark, type Measured } from "../benchmark.js";
import { type BenchmarkOptions, devices, kvCaches } from "../options.js";
import { whole } from "./arguments.js";
import { byteSize, ProgressLine, printJson, table } from "./terminal.js";

interface Options {
  device?: BenchmarkOptions["device"];
  threads?: number;
  context?: number;
  kv?: NonNullable<BenchmarkOptions["kvCache"]>;
  prompt?: number;
  generate?: number;
  repeats?: number;
  fillContext?: true;
  promptKernel?: string;
  json?: true;
}

export function benchCommand(signal: AbortSignal): Command {
  return new Command("bench")
    .description(
      "Measure a model's speed and memory on this machine, beside the bandwidth of its memory. " +
        "No tokenizer is needed: the tokens are made up.",
    )
    .argument("<dir>", "a model directory, or a llama2.c checkpoint")
    .addOption(new Option("--device <name>", "what to run on (default: auto)").choices(devices))
    .option("--threads <n>", "threads (default: the machine's performance cores)", whole)
    .option("--context <n>", "tokens the KV cache holds (default: the model's)", whole)
    .addOption(new Option("--kv <type>", "the KV cache's numbers (default: f16)").choices(kvCaches))
    .option("--prompt <n>", "tokens of the prompt (default: 128)", whole)
    .option("--generate <n>", "tokens decoded after it (default: 32)", whole)
    .option("--repeats <n>", "how often both are measured (default: 3)", whole)
    .option("--fill-context", "fill the whole KV cache, uncomputed, and measure at its end")
    .option("--prompt-kernel <name>", "what multiplies prompts (default: the fastest; see doctor)")
    .option("--json", "print one JSON object")
    .action(async (dir: string, { json, ...options }: Options) => {
      const { context, kv, prompt, generate, ...rest } = options;
      const progress = new ProgressLine();
      const report = await benchmark(dir, {
        ...rest,
        contextLength: context,
        kvCache: kv,
        promptTokens: prompt,
        generateTokens: generate,
        signal,
        onProgress: progress.show,
      }).finally(() => progress.clear());
      if (json) printJson(asJson(report));
      else process.stdout.write(`${asText(report)}\n`);
    });
}

function asJson(report: BenchmarkReport) {
  return {
    device: {
      backend: report.device.backend,
      name: report.device.name,
      ...(report.device.reason ? { reason: report.device.reason } : {}),
    },
    threads: report.threads,
    context_length: report.contextLength,
    kv_cache: report.kvCache,
    position: report.position,
    prompt_tokens: report.promptTokens,
    generated_tokens: report.generatedTokens,
    repeats: report.repeats,
    load_ms: report.loadMs,
    prefill_tok_s: report.prefill.median,
    prefill_spread: report.prefill.spread,
    decode_tok_s: report.decode.median,
    decode_spread: report.decode.spread,
    prefill_cpu_s_per_token: report.prefillCpu.median,
    decode_cpu_s_per_token: report.decodeCpu.median,
    peak_rss_bytes: report.peakRssBytes,
    bytes_per_token: report.bytesPerToken,
    bandwidth_gb_s: report.bandwidth / 1e9,
    bandwidth_fraction: report.bandwidthFraction,
  };
}

function asText(report: BenchmarkReport): string {
  const rate = ({ median, spread }: Measured, cpu: Measured) =>
    `${figure(median)} tokens/s (spread ${(100 * spread).toFixed(0)} %), ` +
    `${figure(1e3 * cpu.median)} ms of processor a token`;
  const at = report.position > 0 ? ` after ${report.position}` : "";
  return table([
    ["device", `${report.device.backend}, ${report.device.name}`],
    ["threads", `${report.threads}`],
    ["context", `${report.contextLength} tokens, KV cache ${report.kvCache}`],
    ["load", `${figure(report.loadMs)} ms`],
    [`prefill ${report.promptTokens}${at}`, rate(report.prefill, report.prefillCpu)],
    [`decode ${report.generatedTokens}`, rate(report.decode, report.decodeCpu)],
    ["peak memory", `${byteSize(report.peakRssBytes)} resident`],
    ["read for a token", byteSize(report.bytesPerToken)],
    [
      "memory bandwidth",
      `${figure(report.bandwidth / 1e9)} GB/s, of which decoding uses ` +
        `${(100 * report.bandwidthFraction).toFixed(0)} %`,
    ],
  ]);
}

/** Three significant digits. */
function figure(value: number): string {
  return value.toLocaleString("en-US", { maximumSignificantDigits: 3 });
}
