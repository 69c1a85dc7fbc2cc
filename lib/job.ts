/**
 * What all long work shares: progress events as users see them, and waiting for a native job under
 * an AbortSignal. The signal's own reason is what is thrown, as `fetch` does it.
 */
import { fromNative } from "./errors.js";
import type { NativeJob, NativeProgress } from "./native.js";

/** How far long work has come. Within one phase `loaded` only grows. */
export interface ProgressEvent {
  /** What is being done: `"map"`, `"calibrate"`, `"fit"`, ... */
  phase: string;
  loaded: number;
  /** Absent where it is not known. */
  total?: number;
  /** `loaded / total`, 0 to 1; absent where the total is not known. */
  fraction?: number;
  /** The file or tensor at hand, if there is one. */
  detail?: string;
}

export type ProgressListener = (event: ProgressEvent) => void;

/** A native progress event with what is unknown left out. */
export function progressEvent({ phase, loaded, total, detail }: NativeProgress): ProgressEvent {
  return {
    phase,
    loaded,
    ...(total > 0 ? { total, fraction: Math.min(1, loaded / total) } : {}),
    ...(detail ? { detail } : {}),
  };
}

/**
 * Starts a native job and waits for it. A listener that throws aborts the job, and its error is
 * what is thrown: an exception in a callback from a native thread would otherwise end the process.
 */
export async function runJob<T>(
  start: (onProgress: (event: NativeProgress) => void) => NativeJob<T>,
  { signal, onProgress }: { signal?: AbortSignal; onProgress?: ProgressListener },
): Promise<T> {
  signal?.throwIfAborted();
  let job: NativeJob<T> | undefined;
  let failure: { error: unknown } | undefined;
  const abort = () => job?.abort();
  const report = (event: NativeProgress) => {
    if (failure || !onProgress) return;
    try {
      onProgress(progressEvent(event));
    } catch (error) {
      failure = { error };
      abort();
    }
  };
  try {
    job = start(report);
    signal?.addEventListener("abort", abort, { once: true });
    const value = await job.promise;
    if (failure) throw failure.error;
    return value;
  } catch (error) {
    if (failure) throw failure.error;
    signal?.throwIfAborted();
    throw fromNative(error);
  } finally {
    signal?.removeEventListener("abort", abort);
  }
}
