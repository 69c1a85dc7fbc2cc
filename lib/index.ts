/** The public API. Exports only. */
export { type BenchmarkReport, benchmark, type Measured } from "./benchmark.js";
export {
  type CompressEvent,
  type CompressJob,
  type CompressQuality,
  type CompressReport,
  compress,
  type LayerReport,
} from "./compress.js";
export type { Device } from "./device.js";
export { type DoctorReport, doctor, type KernelReport, type TrialReport } from "./doctor.js";
export { type ErrorCode, type ErrorDetails, ModelError } from "./errors.js";
export { type Evaluation, evaluate } from "./evaluate.js";
export type {
  Chunk,
  FinishReason,
  Generation,
  GenerationResult,
  Timing,
  Usage,
} from "./generation.js";
export { type InspectedTensor, type Inspection, inspect } from "./inspect.js";
export type { ProgressEvent, ProgressListener } from "./job.js";
export {
  estimateMemory,
  type MemoryEstimate,
  type MemoryItems,
  type MemoryLimitSource,
  type SystemMemory,
  systemMemory,
} from "./memory.js";
export {
  loadModel,
  type MemoryReport,
  type Model,
  type ModelInfo,
  type ScoreResult,
} from "./model.js";
export type {
  BenchmarkOptions,
  CacheOptions,
  Calibration,
  CompressOptions,
  CompressTarget,
  Effort,
  EndBits,
  EstimateOptions,
  EvaluateOptions,
  Forms,
  GenerateOptions,
  Keep,
  LoadOptions,
  PlanOptions,
  Sensitivity,
  SynthesizeOptions,
  WorkOptions,
} from "./options.js";
export { exampleModel } from "./package.js";
export {
  type CompressionPlan,
  type PlannedTensor,
  type PredictedCost,
  planCompression,
} from "./plan.js";
export type { PressureLevel, PressureListener } from "./pressure.js";
export { shapes } from "./shapes.js";
export type { ModelSource } from "./source.js";
export { type SynthesizeReport, synthesize } from "./synthesize.js";
export type { EncodeOptions, Tokenizer } from "./text.js";
