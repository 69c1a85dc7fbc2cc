/**
 * What a model runs on, and what this machine offers: the engine's facts in the API's words.
 */
import { mkdirSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";

import envPaths from "env-paths";

import { fromNative } from "./errors.js";
import { type NativeModelFacts, nativeAddon } from "./native.js";

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
    kernels: KernelReport[];
  };
  /** Why there is no `gpu`. */
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
 * Looks at this machine: opens the GPU, if there is one, and compiles every kernel for it.
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
    ...(gpu ? { gpu: { ...gpu, kernels: gpu.kernels.map(kernelOf) } } : { gpuReason }),
  };
}

function kernelOf({ reason, ...kernel }: KernelReport): KernelReport {
  return reason ? { ...kernel, reason } : kernel;
}
