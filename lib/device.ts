/**
 * What a model runs on, and what this machine offers: the engine's facts in the API's words.
 */
import { mkdirSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";

import envPaths from "env-paths";

import { fromNative } from "./errors.js";
import { type NativeDoctorReport, type NativeModelFacts, nativeAddon } from "./native.js";

export interface Device {
  backend: "metal" | "cpu";
  /** The chip's own name. */
  name: string;
  /** Why it is not the GPU although `device` was `"auto"`. */
  reason?: string;
  /** Of the engine on the processor. */
  threads: number;
}

/** One GPU kernel as the system's shader compiler took it. */
export interface KernelReport {
  name: string;
  usable: boolean;
  /** Threads that one threadgroup may have. */
  maxThreads: number;
  /** The compiler's words, where it is not usable. */
  reason?: string;
  /** One call's time on a square matrix of `timedRows`, of kernels that multiply weights. */
  speed?: {
    tokens: number;
    seconds: number;
    bytesPerSecond: number;
    /** Of what the GPU reads when it does nothing else. */
    bandwidthFraction: number;
  };
}

/** What this machine offers a model. */
export interface DoctorReport {
  version: string;
  platform: string;
  node: string;
  cpu: {
    name: string;
    performanceCores: number;
    /** The instructions that multiply signs, such as `"avx2"`. */
    signKernel: string;
  };
  gpu?: {
    name: string;
    system: string;
    family: number;
    maxBufferBytes: number;
    workingSetBytes: number;
    threadgroupBytes: number;
    /** What it reads when it does nothing else, measured. */
    bytesPerSecond: number;
    timedRows: number;
    kernels: KernelReport[];
  };
  /** Why there is no `gpu`, or what went wrong while it was timed. */
  gpuReason?: string;
}

/** The processor's own name. */
function processorName(): string {
  return cpus()[0]?.model.trim() ?? "unknown";
}

/** A loaded model's device. */
export function deviceOf({ device, threads }: NativeModelFacts): Device {
  return Object.freeze({
    backend: device.backend,
    name: device.name || processorName(),
    ...(device.reason ? { reason: device.reason } : {}),
    threads,
  });
}

/** The file that remembers which GPUs have given right answers; on Macs its directory is made. */
export function verdictsFile(cacheDir: string | undefined): string {
  const folder = cacheDir ?? envPaths("subbit", { suffix: "" }).cache;
  try {
    if (process.platform === "darwin") mkdirSync(folder, { recursive: true });
  } catch {
    // Without it the GPU is tried again each time.
  }
  return join(folder, "devices.txt");
}

/**
 * Looks at this machine: opens the GPU, if there is one, compiles every kernel for it, and times
 * those that multiply weights, which takes some seconds.
 * @throws ModelError NO_NATIVE_BINARY
 */
export async function doctor(): Promise<DoctorReport> {
  const native = await nativeAddon()
    .doctor()
    .catch((error: unknown) => {
      throw fromNative(error);
    });
  const { version, signKernel, performanceCores, gpuReason, gpu } = native;
  return {
    version,
    platform: `${process.platform}-${process.arch}`,
    node: process.version,
    cpu: { name: processorName(), performanceCores, signKernel },
    ...(gpu ? { gpu: gpuReport(gpu) } : {}),
    ...(gpuReason ? { gpuReason } : {}),
  };
}

function gpuReport(gpu: NonNullable<NativeDoctorReport["gpu"]>): DoctorReport["gpu"] {
  const kernels = gpu.kernels.map(
    ({ name, usable, maxThreads, reason, tokens, seconds, bytesPerSecond }): KernelReport => ({
      name,
      usable,
      maxThreads,
      ...(reason ? { reason } : {}),
      ...(seconds > 0
        ? {
            speed: {
              tokens,
              seconds,
              bytesPerSecond,
              bandwidthFraction: bytesPerSecond / gpu.bytesPerSecond,
            },
          }
        : {}),
    }),
  );
  return { ...gpu, kernels };
}
