/** `subbit doctor`: what this machine offers, and what is wrong with it. */
import { Command } from "commander";

import { type DoctorReport, doctor, type KernelReport } from "../doctor.js";
import { byteSize, printJson, table } from "./terminal.js";

export function doctorCommand(): Command {
  return new Command("doctor")
    .description(
      "Say what this machine offers: processor, GPU, every GPU kernel's verdict and speed.",
    )
    .option("--json", "print one JSON object")
    .action(async ({ json }: { json?: true }) => {
      const report = await doctor();
      if (json) printJson(asJson(report));
      else process.stdout.write(`${asText(report)}\n`);
    });
}

/** The report for scripts. */
export function asJson({ version, platform, node, cpu, gpu, gpuReason }: DoctorReport) {
  return {
    version,
    platform,
    node,
    cpu: {
      name: cpu.name,
      performance_cores: cpu.performanceCores,
      sign_kernel: cpu.signKernel,
      prompt_kernel: cpu.promptKernel,
      prompt_kernels: cpu.promptKernels,
    },
    gpu: gpu
      ? {
          name: gpu.name,
          system: gpu.system,
          family: gpu.family,
          max_buffer_bytes: gpu.maxBufferBytes,
          working_set_bytes: gpu.workingSetBytes,
          threadgroup_bytes: gpu.threadgroupBytes,
          bytes_per_second: gpu.bytesPerSecond,
          timed_rows: gpu.timedRows,
          trial: gpu.trial,
          kernels: gpu.kernels.map(({ name, verdict, maxThreads, reason, speed }) => ({
            name,
            verdict,
            max_threads: maxThreads,
            ...(reason ? { reason } : {}),
            ...(speed
              ? {
                  tokens: speed.tokens,
                  seconds: speed.seconds,
                  bytes_per_second: speed.bytesPerSecond,
                  bandwidth_fraction: speed.bandwidthFraction,
                }
              : {}),
          })),
        }
      : null,
    ...(gpuReason ? { gpu_reason: gpuReason } : {}),
  };
}

/** "sign_gemv_store", "right", "1 token", "41.3 us", "51.2 GB/s", "75 %". */
function kernelRow({ name, verdict, speed }: KernelReport): string[] {
  if (!speed) return [name, verdict];
  const { tokens, seconds, bytesPerSecond, bandwidthFraction } = speed;
  return [
    name,
    verdict,
    tokens === 1 ? "1 token" : `${tokens} tokens`,
    `${(1e6 * seconds).toFixed(1)} us`,
    `${(bytesPerSecond / 1e9).toFixed(1)} GB/s`,
    `${(100 * bandwidthFraction).toFixed(0)} %`,
  ];
}

/** The report for people. */
export function asText({ version, platform, node, cpu, gpu, gpuReason }: DoctorReport): string {
  const lines = [
    `subbit ${version}, ${platform}, Node ${node}`,
    `processor: ${cpu.name}, ${cpu.performanceCores} performance cores, ${cpu.signKernel} kernels`,
    ...(cpu.promptKernels.length > 1
      ? [`prompts: ${cpu.promptKernel}, the fastest of ${cpu.promptKernels.join(", ")}`]
      : []),
  ];
  if (!gpu) return [...lines, `GPU: none. ${gpuReason ?? ""}`].join("\n");
  const { kernels } = gpu;
  const right = kernels.filter(({ verdict }) => verdict === "right");
  const others = kernels.filter(({ verdict }) => verdict !== "right");
  return [
    ...lines,
    `GPU: ${gpu.name} (Apple family ${gpu.family}), ${gpu.system}`,
    `  buffers up to ${byteSize(gpu.maxBufferBytes)}, working set ${byteSize(gpu.workingSetBytes)}`,
    `  ${right.length} of ${kernels.length} kernels compute what the processor computes`,
    ...others.map(({ name, verdict, reason }) => `  ${name} is ${verdict}: ${reason ?? ""}`),
    ...(gpuReason ? [`  ${gpuReason}`] : []),
    gpu.trial.passed
      ? `  answers as the processor does; fastest kernels for signs: ${gpu.trial.kernels}`
      : `  will not be used: ${gpu.trial.reason}`,
    `  reads ${(gpu.bytesPerSecond / 1e9).toFixed(1)} GB/s; ` +
      `weights of ${gpu.timedRows} x ${gpu.timedRows}, and the fraction of that:`,
    table(kernels.map(kernelRow)),
  ].join("\n");
}
