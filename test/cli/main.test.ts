/** The command as a user starts it: its shapes, its exit codes, what goes to which stream. */
import { spawn, spawnSync } from "node:child_process";
import { existsSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";

import { beforeAll, describe, expect, test } from "vitest";

import { packageRoot, packageVersion } from "../../lib/package.js";
import { writeRandomModel } from "../support/random-model.js";
import { temporaryDirectory } from "../support/tiny-model.js";

const main = join(packageRoot, "dist/cli/main.js");
let model: string;
let text: string;
// The commands have no option for the cache of token ids, so it is put elsewhere by the system's.
const env = { ...process.env };
beforeAll(() => {
  model = writeRandomModel();
  text = join(temporaryDirectory(), "text.txt");
  writeFileSync(text, "the cat and the cat. a cat and a hand. ".repeat(60));
  env.XDG_CACHE_HOME = temporaryDirectory();
});

function subbit(...args: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [main, ...args], {
    encoding: "utf8",
    env,
  });
  return { status, stdout, stderr };
}

describe("the command line", () => {
  test("explains itself", () => {
    expect(subbit("--version").stdout).toBe(`${packageVersion()}\n`);
    const help = subbit("--help");
    expect(help.status).toBe(0);
    const commands = ["compress", "inspect", "eval", "generate", "synth", "bench", "fit", "doctor"];
    for (const command of commands) {
      expect(help.stdout).toContain(command);
      const own = subbit(command, "--help");
      expect(own).toMatchObject({ status: 0, stderr: "" });
      expect(own.stdout).toContain("--json");
    }
  });

  test.each([
    [["nonsense"]],
    [["inspect"]],
    [["inspect", "a", "b"]],
    [["inspect", "a", "--nonsense"]],
    [["compress", "a", "--out", "b"]],
    [["compress", "a", "--bits", "few", "--out", "b"]],
    [["compress", "a", "--bits", "1"]],
    [["compress", "a", "--bits", "1", "--target-size", "5MB", "--dry-run"]],
    [["compress", "a", "--target-size", "5 apples", "--dry-run"]],
    [["compress", "a", "--bits", "1", "--context", "64", "--dry-run"]],
    [["compress", "a", "--bits", "1", "--keep", "down_proj", "--dry-run"]],
    [["compress", "a", "--bits", "1", "--embeddings", "5", "--dry-run"]],
    [["compress", "a", "--bits", "1", "--forms", "trees", "--dry-run"]],
    [["compress", "a", "--bits", "1", "--sensitivity", "guessed", "--dry-run"]],
    [["compress", "a", "--bits", "0", "--out", "b"]],
    [["compress", "a", "--bits", "1", "--out", "b", "--effort", "none"]],
    [["compress", "a", "--bits", "1", "--out", "b", "--calibration-tokens", "9"]],
    [["compress", "a", "--bits", "1", "--out", "b", "--calibration-context", "9"]],
    [["eval", "a"]],
    [["generate", "a", "b", "--max-tokens", "1.5"]],
    [["generate", packageRoot]],
    [["synth", "--out", "b"]],
    [["bench"]],
    [["fit"]],
    [["fit", "llama-2-7b", "--budget", "much"]],
    [["fit", "llama-2-7b", "--bits", "0"]],
    [["bench", "a", "--kv", "f8"]],
    [["bench", "a", "--prompt", "1"]],
    [["synth", "--shape", "nonsense", "--out", "b"]],
  ])("called wrongly, as %j, it says so and exits with 2", (args) => {
    const { status, stdout, stderr } = subbit(...args);
    expect(status, stderr).toBe(2);
    expect(stdout).toBe("");
    expect(stderr).not.toBe("");
    expect(stderr).not.toMatch(/\n\s+at /);
  });

  test("without a command it shows its help and exits with 2", () => {
    const { status, stderr } = subbit();
    expect(status).toBe(2);
    expect(stderr).toContain("Usage");
  });

  test("a model that is not there is named, with exit code 1 and no stack", () => {
    for (const args of [
      ["inspect", "/nowhere"],
      ["generate", "/nowhere", "a"],
      ["eval", "/nowhere", "--text", text],
      ["bench", "/nowhere"],
    ]) {
      const { status, stderr } = subbit(...args);
      expect(status).toBe(1);
      expect(stderr).toContain("/nowhere");
      expect(stderr).not.toMatch(/\n\s+at /);
    }
  });
});

describe("subbit inspect", () => {
  test("prints parameters, bytes, bits and tensors as JSON", () => {
    const { status, stdout } = subbit("inspect", model, "--json");
    expect(status).toBe(0);
    const json = JSON.parse(stdout);
    expect(Object.keys(json)).toEqual([
      "architecture",
      "parameters",
      "bytes",
      "bits_per_weight",
      "tensors",
    ]);
    expect(json.bits_per_weight.file).toBeGreaterThan(32);
    expect(json.tensors[0]).toEqual({
      name: expect.any(String),
      format: "F32",
      shape: expect.any(Array),
      bytes: expect.any(Number),
      bits_per_weight: 32,
      body: expect.any(Boolean),
    });
  });

  test("prints an aligned table for people", () => {
    const { stdout } = subbit("inspect", model);
    const [head, first] = stdout.split("\n");
    expect(head).toMatch(/^tensor +format +shape +bytes +bits +part$/);
    expect(first?.indexOf("F32")).toBe(head?.indexOf("format"));
    expect(stdout).toMatch(/bits per weight: [\d.]+ body, [\d.]+ file\n$/);
  });
});

describe("subbit eval", () => {
  const small = ["--context", "32", "--windows", "3"];

  test("prints perplexity and predictions, and against a teacher how near it is", () => {
    const alone = JSON.parse(subbit("eval", model, "--text", text, ...small, "--json").stdout);
    expect(alone).toEqual({ perplexity: expect.any(Number), tokens: 93, windows: 3 });
    const args = ["eval", model, "--text", text, ...small, "--teacher", model, "--json"];
    const json = JSON.parse(subbit(...args).stdout);
    expect(json.perplexity).toBe(alone.perplexity);
    expect(json.top1_agreement).toBe(1);
    expect(Math.abs(json.kl_mean)).toBeLessThan(1e-6);
    expect(json.kl_p99).toBeGreaterThanOrEqual(json.kl_mean);
  });

  test("prints a table for people", () => {
    expect(subbit("eval", model, "--text", text, ...small).stdout).toMatch(/^perplexity +[\d.]+\n/);
  });
});

describe("the GPU", () => {
  test("is in the doctor's report, or the reason why there is none", () => {
    const { status, stdout } = subbit("doctor", "--json");
    expect(status).toBe(0);
    const report = JSON.parse(stdout);
    expect(report.cpu.performance_cores).toBeGreaterThan(0);
    if (report.gpu) expect(report.gpu.kernels.length).toBeGreaterThan(20);
    else expect(report.gpu_reason.length).toBeGreaterThan(10);
    expect(subbit("doctor").stdout).toContain("GPU: ");
  });

  test.skipIf(process.platform === "darwin")(
    "where there is no Metal cannot be insisted on",
    () => {
      const refused = subbit("generate", model, "the cat", "--device", "metal");
      expect(refused.status).toBe(1);
      expect(refused.stderr).toContain("not a Mac");
      expect(refused.stderr).toContain("DEVICE_UNAVAILABLE");
      const json = subbit("generate", model, "the cat", "--max-tokens", "2", "--json");
      expect(JSON.parse(json.stdout).device).toMatchObject({
        backend: "cpu",
        reason: expect.stringContaining("not a Mac"),
      });
    },
  );
});

describe("subbit generate", () => {
  test("streams the continuation to stdout and nothing else", () => {
    const { status, stdout, stderr } = subbit("generate", model, "the cat", "--max-tokens", "8");
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    const json = subbit("generate", model, "the cat", "--max-tokens", "8", "--json");
    const result = JSON.parse(json.stdout);
    expect(stdout).toBe(`${result.text}\n`);
    expect(result).toMatchObject({ prompt: "the cat", finish_reason: "length" });
    expect(result.usage).toMatchObject({ generated_tokens: 8, cached_tokens: 0 });
    expect(Object.keys(result.timing)).toContain("decode_tps");
  });

  test("without a model, the one in the package writes", () => {
    const alone = subbit("generate", "--max-tokens", "8");
    expect(alone).toMatchObject({ status: 0, stderr: "" });
    expect(alone.stdout).toMatch(/^Once upon a time\S* \w+/);
    const prompted = subbit("generate", "The little dog", "--max-tokens", "8", "--json");
    expect(JSON.parse(prompted.stdout).prompt).toBe("The little dog");
  });

  test("a seed repeats the text, another seed does not", () => {
    const args = ["generate", model, "a", "--max-tokens", "20", "--temperature", "1", "--seed"];
    expect(subbit(...args, "3").stdout).toBe(subbit(...args, "3").stdout);
    expect(subbit(...args, "3").stdout).not.toBe(subbit(...args, "4").stdout);
  });
});

describe("subbit synth", () => {
  test("writes a model and reports it", () => {
    const out = join(temporaryDirectory(), "out");
    const config = join(model, "config.json");
    const args = ["synth", "--shape", config, "--bits", "6", "--out", out];
    const { status, stdout, stderr } = subbit(...args, "--json");
    expect(status, stderr).toBe(0);
    const json = JSON.parse(stdout);
    expect(json).toEqual({
      out,
      parameters: expect.any(Number),
      bits_per_weight: { body: expect.any(Number), file: expect.any(Number) },
      bytes: JSON.parse(subbit("inspect", out, "--json").stdout).bytes,
      wall_ms: expect.any(Number),
    });
    expect(subbit(...args).status).toBe(2);
  });
});

describe("subbit bench", () => {
  const small = ["--prompt", "8", "--generate", "4", "--threads", "1"];

  test("prints what it measured as JSON, at the start or at the end of the context", () => {
    const { status, stdout, stderr } = subbit("bench", model, ...small, "--json");
    expect(status, stderr).toBe(0);
    const json = JSON.parse(stdout);
    expect(json).toMatchObject({ threads: 1, position: 0, repeats: 3, kv_cache: "f16" });
    for (const key of [
      ...["load_ms", "prefill_tok_s", "decode_tok_s", "prefill_cpu_s_per_token"],
      ...["decode_cpu_s_per_token", "peak_rss_bytes", "bytes_per_token", "bandwidth_gb_s"],
      "bandwidth_fraction",
    ]) {
      expect(json[key], key).toBeGreaterThan(0);
    }
    const filled = JSON.parse(subbit("bench", model, ...small, "--fill-context", "--json").stdout);
    expect(filled.position).toBe(filled.context_length - 12);
    expect(filled.bytes_per_token).toBeGreaterThan(json.bytes_per_token);
  });

  test("prints a table for people, and refuses what the context does not hold", () => {
    expect(subbit("bench", model, ...small).stdout).toMatch(/^decode 4 +[\d.,]+ tokens\/s/m);
    expect(subbit("bench", model, "--prompt", "64").status).toBe(2);
  });
});

describe("subbit compress", () => {
  const args = (out: string) => [
    ...["compress", model, "--bits", "3", "--out", out],
    ...["--calibration", text, "--effort", "fast"],
  ];

  test("writes a model and reports it", () => {
    const out = join(temporaryDirectory(), "out");
    const { status, stdout, stderr } = subbit(...args(out), "--json");
    expect(status, stderr).toBe(0);
    const json = JSON.parse(stdout);
    expect(json).toMatchObject({ out, resumed_blocks: 0, tuned: true });
    expect(json.bits_per_weight.body).toBeLessThanOrEqual(3);
    expect(Object.keys(json.linears[0])).toEqual(
      expect.arrayContaining(["name", "format", "bits_per_weight", "output_error"]),
    );
    expect(JSON.parse(subbit("inspect", out, "--json").stdout).bytes).toBe(json.bytes);
    const again = subbit(...args(out));
    expect(again.status).toBe(2);
    expect(again.stderr).toContain("overwrite");
    expect(subbit(...args(out), "--overwrite").status).toBe(0);
  });

  test("says what it would do, and then does that", () => {
    const out = join(temporaryDirectory(), "out");
    const form = [
      ...["compress", model, "--target-size", "80KB", "--embeddings", "3"],
      ...[
        "--forms",
        "tables",
        "--keep",
        "*.0.*o_proj=fp16",
        "--keep",
        "*down_proj=4",
        "--calibration",
        text,
        "--json",
      ],
    ];
    const dry = subbit(...form, "--dry-run");
    expect(dry.status, dry.stderr).toBe(0);
    const plan = JSON.parse(dry.stdout);
    expect(plan.bytes).toBeLessThanOrEqual(80_000);
    expect(plan.costs.map(({ effort }: { effort: string }) => effort)).toEqual([
      ...["fast", "balanced", "max"],
    ]);
    const sum = plan.tensors.reduce(
      (total: number, { bytes }: { bytes: number }) => total + bytes,
      0,
    );
    expect(sum).toBe(plan.bytes);
    const { status, stdout, stderr } = subbit(...form, "--out", out, "--effort", "fast");
    expect(status, stderr).toBe(0);
    const report = JSON.parse(stdout);
    expect(report.bytes).toBe(plan.bytes);
    expect(report.plan.tensors).toEqual(plan.tensors);
    const { tensors } = JSON.parse(subbit("inspect", out, "--json").stdout);
    const formats = tensors.map(({ format }: { format: string }) => format);
    expect(formats).toEqual(
      expect.arrayContaining(["int3", "int4", expect.stringMatching(/^packed: table/)]),
    );
    const impossible = subbit("compress", model, "--target-size", "9KB", "--dry-run");
    expect(impossible.status).toBe(2);
    expect(impossible.stderr).toMatch(/at least [\d]+ bytes/);
  });

  test("interrupted, it exits with 130 and leaves no half model", async () => {
    const out = join(temporaryDirectory(), "out");
    const long = ["--calibration-tokens", "2000", "--effort", "max"];
    const child = spawn(process.execPath, [main, ...args(out).slice(0, -2), ...long], { env });
    const ended = new Promise((resolve) => child.on("exit", resolve));
    await expect.poll(() => existsSync(`${out}.partial`), { timeout: 30_000 }).toBe(true);
    child.kill("SIGINT");
    expect(await ended).toBe(130);
    expect(existsSync(out)).toBe(false);
    expect(readdirSync(dirname(out)).filter((name) => name !== "out.state")).toEqual([]);
  });
});
