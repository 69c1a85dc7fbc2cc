/** What this machine offers a model, measured: the engine's report in the API's words. */
import { processorName } from "./device.js";
import { fromNative } from "./errors.js";
import { loadModel } from "./model.js";
import { type NativeDoctorReport, nativeAddon } from "./native.js";
import { exampleModel } from "./package.js";

/** One GPU kernel as the system's shader compiler took it. */
export interface KernelReport {
  name: string;
  usable: boolean;
  /** Threads that one threadgroup may have. */
  maxThreads: number;
  /** The compiler's words, where it is not usable. */
  reason?: string;
  /** One call's time: of a product with a square matrix of `timedRows`, of rows as wide. */
  speed?: {
    tokens: number;
    seconds: number;
    bytesPerSecond: number;
    /** Of what the GPU reads when it does nothing else. */
    bandwidthFraction: number;
  };
}

/** What came of letting the GPU answer as the processor does, for the package's own model. */
export interface TrialReport {
  passed: boolean;
  /** Those that it found right and fastest, such as `"popcount columns"`. */
  kernels?: string;
  /** Why the GPU would not be used. */
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
    /** What multiplies prompts: the fastest of those that this machine can run, measured. */
    promptKernel: string;
    promptKernels: string[];
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
    trial: TrialReport;
  };
  /** Why there is no `gpu`, or what went wrong while it was timed. */
  gpuReason?: string;
}

/**
 * Looks at this machine: opens the GPU, if there is one, compiles every kernel for it, times them
 * and lets it answer for the package's model, which takes some seconds. The trial's verdict is the
 * one that `loadModel()` remembers.
 * @throws ModelError NO_NATIVE_BINARY
 */
export async function doctor(): Promise<DoctorReport> {
  const native = await nativeAddon()
    .doctor()
    .catch((error: unknown) => {
      throw fromNative(error);
    });
  const { version, performanceCores, gpuReason, gpu } = native;
  const { signKernel, promptKernel, promptKernels } = native;
  const kernels = { signKernel, promptKernel, promptKernels };
  return {
    version,
    platform: `${process.platform}-${process.arch}`,
    node: process.version,
    cpu: { name: processorName(), performanceCores, ...kernels },
    ...(gpu ? { gpu: gpuReport(gpu, await trial()) } : {}),
    ...(gpuReason ? { gpuReason } : {}),
  };
}

async function trial(): Promise<TrialReport> {
  try {
    const model = await loadModel(exampleModel, { device: "metal" });
    const { kernels } = model.device;
    await model.dispose();
    return { passed: true, ...(kernels ? { kernels } : {}) };
  } catch (error) {
    return { passed: false, reason: error instanceof Error ? error.message : String(error) };
  }
}

function gpuReport(
  gpu: NonNullable<NativeDoctorReport["gpu"]>,
  trial: TrialReport,
): DoctorReport["gpu"] {
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
  return { ...gpu, kernels, trial };
}
