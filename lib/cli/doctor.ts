/** `subbit doctor`: what this machine offers, and what is wrong with it. */
import { Command } from "commander";

import { type DoctorReport, doctor } from "../device.js";
import { byteSize, printJson, table } from "./terminal.js";

export function doctorCommand(): Command {
  return new Command("doctor")
    .description("Say what this machine offers: processor, GPU, and every GPU kernel's verdict.")
    .option("--json", "print one JSON object")
    .action(async ({ json }: { json?: true }) => {
      const report = await doctor();
      if (json) printJson(asJson(report));
      else process.stdout.write(`${asText(report)}\n`);
    });
}

function asJson({ version, platform, node, cpu, gpu, gpuReason }: DoctorReport) {
  return {
    version,
    platform,
    node,
    cpu: {
      name: cpu.name,
      performance_cores: cpu.performanceCores,
      sign_kernel: cpu.signKernel,
    },
    gpu: gpu
      ? {
          name: gpu.name,
          system: gpu.system,
          family: gpu.family,
          max_buffer_bytes: gpu.maxBufferBytes,
          working_set_bytes: gpu.workingSetBytes,
          threadgroup_bytes: gpu.threadgroupBytes,
          kernels: gpu.kernels.map(({ name, usable, maxThreads, reason }) => ({
            name,
            usable,
            max_threads: maxThreads,
            ...(reason ? { reason } : {}),
          })),
        }
      : null,
    ...(gpuReason ? { gpu_reason: gpuReason } : {}),
  };
}

/** The report for people. */
export function asText({ version, platform, node, cpu, gpu, gpuReason }: DoctorReport): string {
  const lines = [
    `subbit ${version}, ${platform}, Node ${node}`,
    `processor: ${cpu.name}, ${cpu.performanceCores} performance cores, ${cpu.signKernel} kernels`,
  ];
  if (!gpu) return [...lines, `GPU: none. ${gpuReason ?? ""}`].join("\n");
  const bad = gpu.kernels.filter(({ usable }) => !usable);
  return [
    ...lines,
    `GPU: ${gpu.name} (Apple family ${gpu.family}), ${gpu.system}`,
    `  buffers up to ${byteSize(gpu.maxBufferBytes)}, working set ${byteSize(gpu.workingSetBytes)}`,
    `  ${gpu.kernels.length - bad.length} of ${gpu.kernels.length} kernels usable`,
    ...(bad.length > 0 ? [table(bad.map(({ name, reason }) => [name, reason ?? ""]))] : []),
  ].join("\n");
}
