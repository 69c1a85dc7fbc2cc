/**
 * An addon without an engine, for tests of what lib/ does around it: its models say a given
 * sequence of tokens, one per turn of the event loop, and it remembers what it was asked.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";

import type {
  NativeAddon,
  NativeCompressPlan,
  NativeCompressPlanRequest,
  NativeCompressRequest,
  NativeDoctorReport,
  NativeEvaluateRequest,
  NativeEvaluateResult,
  NativeGenerateRequest,
  NativeGenerateResult,
  NativeJob,
  NativeLoadRequest,
  NativeMemoryEstimate,
  NativeMemoryRequest,
  NativeModel,
  NativeModelFacts,
  NativeProgress,
  NativeSynthesizeRequest,
} from "../../lib/native.js";

/** An error as the binding makes them. */
export function nativeError(code: string, message = code, details = {}): Error {
  return Object.assign(new Error(message), { code, details });
}

/** A job that runs `steps` one per turn of the event loop until done or aborted. */
export function fakeJob<T>(steps: number, each: (step: number) => void, value: () => T) {
  const state = { isAborted: false, step: 0 };
  const promise = (async () => {
    for (; state.step < steps; state.step++) {
      await new Promise((resolve) => setImmediate(resolve));
      if (state.isAborted) throw nativeError("ABORTED");
      each(state.step);
    }
    return value();
  })();
  const abort = () => {
    state.isAborted = true;
  };
  return { promise, abort, state };
}

const facts: NativeModelFacts = {
  architecture: "llama",
  parameters: 1000,
  contextLength: 16,
  trainedContextLength: 16,
  vocabSize: 400,
  layers: 2,
  hiddenSize: 8,
  bitsPerWeightBody: 0.75,
  bitsPerWeightFile: 1.5,
  fileBytes: 4096,
  bosTokenIds: [1],
  eosTokenIds: [2],
  threads: 1,
  device: { backend: "cpu", name: "", reason: "", kernels: "" },
  loadMs: 3,
  weightBytesPerToken: 4000,
  kvBytesPerPosition: 10,
};

/** What a model of 1,500 bytes in a process of 500 is planned to take. */
const estimate: NativeMemoryEstimate = {
  items: {
    weightsBody: 600,
    codebooks: 0,
    embeddings: 300,
    lmHead: 0,
    fileRest: 100,
    kvCache: 200,
    activations: 100,
    scratch: 100,
    rope: 20,
    loaded: 30,
    sampling: 20,
    threads: 30,
    tokenizer: 0,
    gpu: 0,
    runtime: 500,
  },
  totalBytes: 2000,
  mappedBytes: 1000,
  privateBytes: 1000,
  peakLoadBytes: 1500,
  peakPrefillBytes: 2000,
  limitBytes: 4000,
  limitSource: "available",
  fits: true,
  architecture: "llama",
  parameters: 1000,
  bitsPerWeightBody: 0.75,
  contextLength: 16,
  trainedContextLength: 16,
  maxContextLength: 16,
};

const fakePlan: NativeCompressPlan = {
  tensors: [],
  bitsPerWeightBody: 0.8,
  bitsPerWeightFile: 1.2,
  bytes: 7,
  bodyBytes: 5,
  memoryBytes: 9,
  contextLength: 16,
  costs: [
    {
      ...{ effort: "fast", ms: 1000, peakBytes: 4096, privateBytes: 3072 },
      memory: {
        ...{ original: 512, result: 512, process: 1024, threads: 256, tokenizer: 256 },
        ...{ embeddings: 256, text: 256, stages: [{ name: "tune", bytes: 1024 }] },
      },
      stages: [{ name: "fit", ms: 1000 }],
    },
  ],
  gemmGflops: 40,
};

export class FakeAddon implements NativeAddon {
  readonly version = "0.0.0";
  /** What every generation says. */
  says: number[] = [];
  /** Turns of the event loop before it says anything, as in a prefill. */
  silentTurns = 0;
  /** Rejects every job with this, if it is set. */
  failure: Error | undefined;
  facts = facts;
  disposals = 0;
  readonly loads: NativeLoadRequest[] = [];
  readonly requests: NativeGenerateRequest[] = [];
  readonly jobs: ReturnType<typeof fakeJob<unknown>>[] = [];
  /** What every evaluation says of the teacher. */
  teacher: NativeEvaluateResult["teacher"];
  /** Of every compression. */
  heldOutWindows = 0;
  readonly compressions: NativeCompressRequest[] = [];
  readonly plans: NativeCompressPlanRequest[] = [];
  readonly evaluations: NativeEvaluateRequest[] = [];
  readonly fills: number[] = [];
  readonly trims: boolean[] = [];
  readonly estimates: NativeMemoryRequest[] = [];
  estimate = estimate;

  loadModel(request: NativeLoadRequest, onProgress: (event: NativeProgress) => void) {
    this.loads.push(request);
    const event = { phase: "map", total: 3, detail: "model.safetensors" };
    return this.#job(
      3,
      (step) => onProgress({ ...event, loaded: step + 1 }),
      () => this.#model(),
    );
  }

  #model(): NativeModel {
    return {
      facts: this.facts,
      generate: (request, onToken) => this.#generate(request, onToken),
      score: (tokens) =>
        this.#job(
          1,
          () => {},
          () => ({ logprobs: new Float32Array(tokens.length - 1).fill(-Math.LN2) }),
        ),
      fillContext: (tokens) => {
        this.fills.push(tokens);
        return this.#job(
          1,
          () => {},
          () => {},
        );
      },
      memory: () => {
        const resident = { residentBytes: 50, fileBytes: 20, anonymousBytes: 30 };
        return {
          planned: this.estimate,
          process: { ...resident, peakResidentBytes: 60, footprintBytes: 30 },
          kvCacheUsedBytes: 7,
          arenaPlannedBytes: 9,
          arenaTouchedBytes: 8,
          unplannedBytes: 0,
        };
      },
      trim: (forgetContext) => {
        this.trims.push(forgetContext);
        return this.#job(
          1,
          () => {},
          () => 4096,
        );
      },
      dispose: async () => {
        this.disposals++;
        for (const job of this.jobs) job.abort();
      },
    };
  }

  #generate(request: NativeGenerateRequest, onToken: (token: number) => void) {
    this.requests.push(request);
    const says = this.says.slice(0, request.maxTokens);
    return this.#job(
      this.silentTurns + says.length,
      (step) => {
        if (step >= this.silentTurns) onToken(says[step - this.silentTurns] ?? 0);
      },
      (): NativeGenerateResult => ({
        finishReason: says.length < this.says.length ? "length" : "stop",
        promptTokens: request.prompt.length,
        cachedTokens: 1,
        generatedTokens: says.length,
        prefillMs: 2,
        decodeMs: 4,
        prefillCpuMs: 3,
        decodeCpuMs: 6,
      }),
    );
  }

  compress(request: NativeCompressRequest, onProgress: (event: NativeProgress) => void) {
    this.compressions.push(request);
    return this.#job(
      6,
      (step) => {
        if (step === 2) writeFileSync(request.state, "a finished block");
        onProgress({ phase: "fit", loaded: step + 1, total: 6, detail: `block ${step}` });
      },
      () => {
        writeFileSync(join(request.out, "model.safetensors"), "weights");
        writeFileSync(join(request.out, "config.json"), "{}");
        const bits = { bitsPerWeightBody: 0.8, bitsPerWeightFile: 1.2 };
        const rest = { linears: [], stages: [], wallMs: 1, resumedBlocks: 0, tuned: true };
        return { ...bits, ...rest, bytes: 7, plan: fakePlan, heldOutWindows: this.heldOutWindows };
      },
    );
  }

  synthesize(request: NativeSynthesizeRequest) {
    return this.#job(
      1,
      () => writeFileSync(join(request.out, "model.safetensors"), "weights"),
      () => ({ parameters: 1, bitsPerWeightBody: 0.8, bitsPerWeightFile: 1.2, bytes: 7 }),
    );
  }

  readBandwidth(_threads: number) {
    return this.#job(
      1,
      () => {},
      () => 2e9,
    );
  }

  peakMemory() {
    return 123_456;
  }

  evaluate(request: NativeEvaluateRequest) {
    this.evaluations.push(request);
    const tokens = request.windows.reduce((sum, window) => sum + window.length - 1, 0);
    return this.#job(
      1,
      () => {},
      () => ({ tokens, perplexity: 5, ...(this.teacher && { teacher: this.teacher }) }),
    );
  }

  planCompress(request: NativeCompressPlanRequest) {
    this.plans.push(request);
    return this.#job(
      1,
      () => {},
      () => fakePlan,
    );
  }

  async doctor(): Promise<NativeDoctorReport> {
    const gpuReason = "the fake addon has no GPU";
    const kernels = { signKernel: "none", promptKernel: "none", promptKernels: ["none"] };
    return { version: "0", ...kernels, performanceCores: 1, gpuReason };
  }

  async inspect() {
    if (this.failure) throw this.failure;
    const totals = { parameters: 1000, bytes: 4096, bitsPerWeightBody: 0.75 };
    return { architecture: "llama", ...totals, bitsPerWeightFile: 1.5, tensors: [] };
  }

  async estimateMemory(request: NativeMemoryRequest) {
    this.estimates.push(request);
    if (this.failure) throw this.failure;
    const limit = request.budget || this.estimate.limitBytes;
    return { ...this.estimate, limitBytes: limit, fits: this.estimate.totalBytes <= limit };
  }

  systemMemory() {
    const bytes = { physicalBytes: 8e9, availableBytes: 4e9, groupLimitBytes: 0 };
    const pressure = "normal" as const;
    return { ...bytes, groupLeftBytes: 0, wiredLimitBytes: 0, swapUsedBytes: 0, pressure };
  }

  async unpackTensor() {
    return { rows: 0, cols: 0, values: new Float32Array() };
  }

  #job<T>(steps: number, each: (step: number) => void, value: () => T): NativeJob<T> {
    const job = fakeJob(steps, each, () => {
      if (this.failure) throw this.failure;
      return value();
    });
    this.jobs.push(job);
    return job;
  }
}
