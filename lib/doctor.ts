/** What this machine offers a model, measured: the engine's report in the API's words. */
import { processorName } from "./device.js";
import { fromNative } from "./errors.js";
import { loadModel } from "./model.js";
import {
  type NativeDoctorReport,
  type NativeGpu,
  type NativeKernel,
  type NativeProcessorKernels,
  nativeAddon,
} from "./native.js";
import { exampleModel } from "./package.js";

/** One GPU kernel's verdict and speed. */
export interface KernelReport extends NativeKernel {
  /** Why it is not right: the compiler's words, or in which job it differs and by how much. */
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
  cpu: NativeProcessorKernels & { name: string; performanceCores: number };
  gpu?: NativeGpu & { kernels: KernelReport[]; trial: TrialReport };
  /** Why there is no `gpu`, or what went wrong while it was tried. */
  gpuReason?: string;
}

/**
 * Looks at this machine: opens the GPU, if there is one, compiles every kernel for it, compares
 * each with the processor, times them and lets the GPU answer for the package's model, which takes
 * some seconds. That last verdict is the one that `loadModel()` remembers.
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
    ({ reason, tokens, seconds, bytesPerSecond, ...kernel }): KernelReport => {
      const bandwidthFraction = bytesPerSecond / gpu.bytesPerSecond;
      const speed = { tokens, seconds, bytesPerSecond, bandwidthFraction };
      return { ...kernel, ...(reason ? { reason } : {}), ...(seconds > 0 ? { speed } : {}) };
    },
  );
  return { ...gpu, kernels, trial };
}
