/** What a model runs on: the engine's facts in the API's words. */
import { mkdirSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";

import envPaths from "env-paths";

import type { NativeModelFacts } from "./native.js";

export interface Device {
  backend: "metal" | "cpu";
  /** The chip's own name. */
  name: string;
  /** Why it is not the GPU although `device` was `"auto"`. */
  reason?: string;
  /** Which of several kernels for one job the GPU's trial chose, such as `"popcount columns"`. */
  kernels?: string;
  /** Of the engine on the processor. */
  threads: number;
}

/** The processor's own name. */
export function processorName(): string {
  return cpus()[0]?.model.trim() ?? "unknown";
}

/** A loaded model's device. */
export function deviceOf({ device, threads }: NativeModelFacts): Device {
  return Object.freeze({
    backend: device.backend,
    name: device.name || processorName(),
    ...(device.reason ? { reason: device.reason } : {}),
    ...(device.kernels ? { kernels: device.kernels } : {}),
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
