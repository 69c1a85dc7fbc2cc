// Conversions.
#include "convert.h"

#include <algorithm>
#include <string_view>

#include "convert_plan.h"

namespace subbit::binding {
namespace {

Napi::Value member(const Napi::Object& in, const char* name) {
  const Napi::Value value = in.Get(name);
  if (value.IsUndefined()) {
    throw Napi::TypeError::New(in.Env(), std::string("missing field ") + name);
  }
  return value;
}

[[noreturn]] void wrong_type(const Napi::Object& in, const char* name, const char* expected) {
  throw Napi::TypeError::New(in.Env(), std::string("field ") + name + " is not " + expected);
}

double number(const Napi::Object& in, const char* name) {
  const Napi::Value value = member(in, name);
  if (!value.IsNumber()) wrong_type(in, name, "a number");
  return value.As<Napi::Number>().DoubleValue();
}

int64_t integer(const Napi::Object& in, const char* name) {
  const double value = number(in, name);
  if (!(value >= -9007199254740991.0 && value <= 9007199254740991.0)) {
    wrong_type(in, name, "a safe integer");
  }
  return static_cast<int64_t>(value);
}

int32_t small_integer(const Napi::Object& in, const char* name) {
  return static_cast<int32_t>(std::clamp<int64_t>(integer(in, name), INT32_MIN, INT32_MAX));
}

float real(const Napi::Object& in, const char* name) {
  return static_cast<float>(number(in, name));
}

bool boolean(const Napi::Object& in, const char* name) {
  const Napi::Value value = member(in, name);
  if (!value.IsBoolean()) wrong_type(in, name, "a boolean");
  return value.As<Napi::Boolean>().Value();
}

std::string text(const Napi::Object& in, const char* name) {
  const Napi::Value value = member(in, name);
  if (!value.IsString()) wrong_type(in, name, "a string");
  return value.As<Napi::String>().Utf8Value();
}

uint64_t bigint(const Napi::Object& in, const char* name) {
  const Napi::Value value = member(in, name);
  if (!value.IsBigInt()) wrong_type(in, name, "a bigint");
  bool lossless = false;
  return value.As<Napi::BigInt>().Uint64Value(&lossless);
}

Napi::Array array(const Napi::Object& in, const char* name) {
  const Napi::Value value = member(in, name);
  if (!value.IsArray()) wrong_type(in, name, "an array");
  return value.As<Napi::Array>();
}

std::vector<std::vector<int32_t>> windows(const Napi::Object& in, const char* name) {
  const Napi::Array list = array(in, name);
  std::vector<std::vector<int32_t>> out;
  out.reserve(list.Length());
  for (uint32_t i = 0; i < list.Length(); ++i) out.push_back(to_tokens(list.Get(i)));
  return out;
}

Napi::Array integers(Napi::Env env, const std::vector<int32_t>& in) {
  Napi::Array out = Napi::Array::New(env, in.size());
  for (uint32_t i = 0; i < in.size(); ++i) out.Set(i, in[i]);
  return out;
}

Napi::Float32Array floats(Napi::Env env, const std::vector<float>& in) {
  Napi::Float32Array out = Napi::Float32Array::New(env, in.size());
  std::copy(in.begin(), in.end(), out.Data());
  return out;
}

/// Of a field that may be left out: null then.
Napi::Value optional(const Napi::Object& in, const char* name) {
  const Napi::Value value = in.Get(name);
  return value.IsUndefined() ? in.Env().Null() : value;
}

void set_training(const Napi::Object& stages, const char* name, StageTraining& out) {
  const Napi::Value value = optional(stages, name);
  if (value.IsNull()) return;
  const Napi::Object in = value.ToObject();
  if (!optional(in, "updates").IsNull()) out.updates = integer(in, "updates");
  if (!optional(in, "tokens").IsNull()) out.tokens = integer(in, "tokens");
  if (!optional(in, "rate").IsNull()) out.rate = real(in, "rate");
  if (!optional(in, "scaleRate").IsNull()) out.scale_rate = real(in, "scaleRate");
  if (!optional(in, "endRate").IsNull()) out.end_rate = real(in, "endRate");
}

void read_stages(const Napi::Object& in, CompressStages& out) {
  if (!optional(in, "rates").IsNull() && text(in, "rates") == "uniform")
    out.rates = CompressStages::Rates::kUniform;
  if (!optional(in, "gradientWindows").IsNull())
    out.gradient_windows = integer(in, "gradientWindows");
  if (!optional(in, "sensitivityWindows").IsNull())
    out.sensitivity_windows = integer(in, "sensitivityWindows");
  if (!optional(in, "teacherTokens").IsNull()) out.teacher_tokens = integer(in, "teacherTokens");
  set_training(in, "absorb", out.absorb);
  set_training(in, "refine", out.refine);
  set_training(in, "block", out.block);
  set_training(in, "model", out.model);
}

/// Numbers past 2^53 do not occur in a file this side of nine petabytes.
double as_number(uint64_t value) { return static_cast<double>(value); }
double as_number(int64_t value) { return static_cast<double>(value); }

}  // namespace

std::vector<int32_t> to_tokens(const Napi::Value& in) {
  if (!in.IsTypedArray() || in.As<Napi::TypedArray>().TypedArrayType() != napi_int32_array) {
    throw Napi::TypeError::New(in.Env(), "tokens are not an Int32Array");
  }
  const Napi::Int32Array array = in.As<Napi::Int32Array>();
  return {array.Data(), array.Data() + array.ElementLength()};
}

KvCacheType to_kv_cache_type(const std::string& name) {
  if (name == "f32") return KvCacheType::kF32;
  return name == "int8" ? KvCacheType::kI8 : KvCacheType::kF16;
}

double number_field(const Napi::Object& in, const char* name) { return number(in, name); }
std::string text_field(const Napi::Object& in, const char* name) { return text(in, name); }

LoadRequest to_load_request(const Napi::Object& in) {
  LoadRequest out;
  out.path = text(in, "path");
  out.threads = small_integer(in, "threads");
  out.context_length = integer(in, "contextLength");
  out.kv_cache = to_kv_cache_type(text(in, "kvCache"));
  out.unpack_to_float = boolean(in, "unpackToFloat");
  if (!optional(in, "memoryBudget").IsNull())
    out.memory_budget = static_cast<uint64_t>(integer(in, "memoryBudget"));
  if (!optional(in, "onInsufficientMemory").IsNull()) {
    const std::string over_limit = text(in, "onInsufficientMemory");
    if (over_limit == "shrink-context") out.over_limit = OverLimit::kShrinkContext;
    if (over_limit == "ignore") out.over_limit = OverLimit::kIgnore;
  }
  if (!optional(in, "tokenizerBytes").IsNull())
    out.tokenizer_bytes = static_cast<uint64_t>(integer(in, "tokenizerBytes"));
  // Who does not ask gets the processor, whose results are the same on every machine.
  out.device = DeviceChoice::kCpu;
  if (!optional(in, "device").IsNull()) {
    const std::string device = text(in, "device");
    if (device == "metal") out.device = DeviceChoice::kMetal;
    if (device == "auto") out.device = DeviceChoice::kAuto;
  }
  if (!optional(in, "verdicts").IsNull()) out.verdicts = text(in, "verdicts");
  if (!optional(in, "promptKernel").IsNull()) out.prompt_kernel = text(in, "promptKernel");
  return out;
}

GenerateRequest to_generate_request(const Napi::Object& in) {
  GenerateRequest out;
  out.prompt = to_tokens(member(in, "prompt"));
  out.max_tokens = integer(in, "maxTokens");
  out.stop_tokens = to_tokens(member(in, "stopTokens"));
  out.temperature = real(in, "temperature");
  out.top_k = small_integer(in, "topK");
  out.top_p = real(in, "topP");
  out.min_p = real(in, "minP");
  out.repetition_penalty = real(in, "repetitionPenalty");
  out.presence_penalty = real(in, "presencePenalty");
  out.frequency_penalty = real(in, "frequencyPenalty");
  const Napi::Array biases = array(in, "logitBias");
  for (uint32_t i = 0; i < biases.Length(); ++i) {
    const Napi::Object pair = biases.Get(i).ToObject();
    out.logit_bias.emplace_back(pair.Get(0u).ToNumber().Int32Value(),
                                pair.Get(1u).ToNumber().FloatValue());
  }
  out.seed = bigint(in, "seed");
  return out;
}

EvaluateRequest to_evaluate_request(const Napi::Object& in) {
  EvaluateRequest out;
  out.path = text(in, "path");
  out.teacher_path = text(in, "teacherPath");
  out.windows = windows(in, "windows");
  out.threads = small_integer(in, "threads");
  out.unpack_to_float = boolean(in, "unpackToFloat");
  return out;
}

CompressRequest to_compress_request(const Napi::Object& in) {
  CompressRequest out;
  out.source = text(in, "source");
  out.out = text(in, "out");
  read_plan_options(in, out);
  out.calibration = windows(in, "calibration");
  const std::string effort = text(in, "effort");
  if (effort == "fast") {
    out.effort = Effort::kFast;
  } else if (effort == "max") {
    out.effort = Effort::kMax;
  }
  out.seed = bigint(in, "seed");
  out.threads = small_integer(in, "threads");
  out.state = text(in, "state");
  if (!optional(in, "stages").IsNull()) read_stages(in.Get("stages").ToObject(), out.stages);
  if (!optional(in, "memoryBudget").IsNull())
    out.memory_budget = static_cast<uint64_t>(integer(in, "memoryBudget"));
  if (!optional(in, "onInsufficientMemory").IsNull() &&
      text(in, "onInsufficientMemory") == "ignore") {
    out.over_limit = OverLimit::kIgnore;
  }
  if (!optional(in, "tokenizerBytes").IsNull())
    out.tokenizer_bytes = static_cast<uint64_t>(integer(in, "tokenizerBytes"));
  return out;
}

SynthesizeRequest to_synthesize_request(const Napi::Object& in) {
  SynthesizeRequest out;
  out.config = text(in, "config");
  out.out = text(in, "out");
  out.bits_per_weight = number(in, "bitsPerWeight");
  out.seed = bigint(in, "seed");
  return out;
}

Napi::Value from_progress(Napi::Env env, const Progress& progress) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("phase", progress.phase);
  out.Set("loaded", progress.loaded);
  out.Set("total", progress.total);
  out.Set("detail", progress.detail);
  return out;
}

Napi::Object from_device(Napi::Env env, const DeviceFacts& device) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("backend", device.backend);
  out.Set("name", device.name);
  out.Set("reason", device.reason);
  out.Set("kernels", device.kernels);
  return out;
}

const char* verdict_name(KernelVerdict verdict) {
  switch (verdict) {
    case KernelVerdict::kRight:
      return "right";
    case KernelVerdict::kWrong:
      return "wrong";
    case KernelVerdict::kUnusable:
      return "unusable";
    case KernelVerdict::kUnjudged:
      break;
  }
  return "unjudged";
}

Napi::Value from_doctor_report(Napi::Env env, const DoctorReport& report) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("version", report.version);
  out.Set("signKernel", report.sign_kernel);
  out.Set("promptKernel", report.prompt_kernel);
  Napi::Array prompt_kernels = Napi::Array::New(env, report.prompt_kernels.size());
  for (uint32_t i = 0; i < prompt_kernels.Length(); ++i)
    prompt_kernels[i] = report.prompt_kernels[i];
  out.Set("promptKernels", prompt_kernels);
  out.Set("performanceCores", report.performance_cores);
  out.Set("gpuReason", report.gpu_reason);
  if (!report.has_gpu) return out;
  Napi::Object gpu = Napi::Object::New(env);
  gpu.Set("name", report.gpu_name);
  gpu.Set("system", report.gpu_system);
  gpu.Set("family", report.gpu_family);
  gpu.Set("maxBufferBytes", as_number(report.gpu_max_buffer_bytes));
  gpu.Set("workingSetBytes", as_number(report.gpu_working_set_bytes));
  gpu.Set("threadgroupBytes", as_number(report.gpu_threadgroup_bytes));
  Napi::Array kernels = Napi::Array::New(env, report.kernels.size());
  for (uint32_t i = 0; i < report.kernels.size(); ++i) {
    const KernelReport& kernel = report.kernels[i];
    Napi::Object one = Napi::Object::New(env);
    one.Set("name", kernel.name);
    one.Set("verdict", verdict_name(kernel.verdict));
    one.Set("maxThreads", as_number(kernel.max_threads));
    one.Set("reason", kernel.reason);
    one.Set("tokens", as_number(kernel.tokens));
    one.Set("seconds", kernel.seconds);
    one.Set("bytesPerSecond", kernel.bytes_per_second);
    kernels.Set(i, one);
  }
  gpu.Set("bytesPerSecond", report.gpu_bytes_per_second);
  gpu.Set("timedRows", as_number(report.timed_rows));
  gpu.Set("kernels", kernels);
  out.Set("gpu", gpu);
  return out;
}

Napi::Value from_facts(Napi::Env env, const ModelFacts& facts) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("architecture", facts.architecture);
  out.Set("parameters", as_number(facts.parameters));
  out.Set("contextLength", as_number(facts.context_length));
  out.Set("trainedContextLength", as_number(facts.trained_context_length));
  out.Set("vocabSize", as_number(facts.vocab_size));
  out.Set("layers", as_number(facts.layers));
  out.Set("hiddenSize", as_number(facts.hidden_size));
  out.Set("bitsPerWeightBody", facts.bits_per_weight_body);
  out.Set("bitsPerWeightFile", facts.bits_per_weight_file);
  out.Set("fileBytes", as_number(facts.file_bytes));
  out.Set("bosTokenIds", integers(env, facts.bos_token_ids));
  out.Set("eosTokenIds", integers(env, facts.eos_token_ids));
  out.Set("threads", facts.threads);
  out.Set("device", from_device(env, facts.device));
  out.Set("loadMs", facts.load_ms);
  out.Set("weightBytesPerToken", as_number(facts.weight_bytes_per_token));
  out.Set("kvBytesPerPosition", facts.kv_bytes_per_position);
  return out;
}

Napi::Value from_generate_result(Napi::Env env, const GenerateResult& result) {
  const char* const reasons[] = {"stop", "length", "context"};
  Napi::Object out = Napi::Object::New(env);
  out.Set("finishReason", reasons[static_cast<int>(result.finish_reason)]);
  out.Set("promptTokens", as_number(result.prompt_tokens));
  out.Set("cachedTokens", as_number(result.cached_tokens));
  out.Set("generatedTokens", as_number(result.generated_tokens));
  out.Set("prefillMs", result.prefill_ms);
  out.Set("decodeMs", result.decode_ms);
  out.Set("prefillCpuMs", result.prefill_cpu_ms);
  out.Set("decodeCpuMs", result.decode_cpu_ms);
  return out;
}

Napi::Value from_score_result(Napi::Env env, const ScoreResult& result) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("logprobs", floats(env, result.logprobs));
  return out;
}

Napi::Value from_evaluate_result(Napi::Env env, const EvaluateResult& result) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("tokens", as_number(result.tokens));
  out.Set("perplexity", result.perplexity);
  if (!result.has_teacher) return out;
  Napi::Object teacher = Napi::Object::New(env);
  teacher.Set("perplexity", result.teacher_perplexity);
  teacher.Set("klMean", result.kl_mean);
  teacher.Set("klP99", result.kl_p99);
  teacher.Set("top1Agreement", result.top1_agreement);
  out.Set("teacher", teacher);
  return out;
}

Napi::Value from_inspection(Napi::Env env, const Inspection& inspection) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("architecture", inspection.architecture);
  out.Set("parameters", as_number(inspection.parameters));
  out.Set("bytes", as_number(inspection.bytes));
  out.Set("bitsPerWeightBody", inspection.bits_per_weight_body);
  out.Set("bitsPerWeightFile", inspection.bits_per_weight_file);
  Napi::Array tensors = Napi::Array::New(env, inspection.tensors.size());
  for (uint32_t i = 0; i < inspection.tensors.size(); ++i) {
    const InspectedTensor& tensor = inspection.tensors[i];
    Napi::Array shape = Napi::Array::New(env, tensor.shape.size());
    for (uint32_t d = 0; d < tensor.shape.size(); ++d) shape.Set(d, as_number(tensor.shape[d]));
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("name", tensor.name);
    entry.Set("format", tensor.format);
    entry.Set("shape", shape);
    entry.Set("bytes", as_number(tensor.bytes));
    entry.Set("bitsPerWeight", tensor.bits_per_weight);
    entry.Set("body", tensor.body);
    tensors.Set(i, entry);
  }
  out.Set("tensors", tensors);
  return out;
}

Napi::Value from_unpacked(Napi::Env env, const UnpackedTensor& tensor) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("rows", as_number(tensor.rows));
  out.Set("cols", as_number(tensor.cols));
  out.Set("values", floats(env, tensor.values));
  return out;
}

Napi::Value from_compress_result(Napi::Env env, const CompressResult& result) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("bitsPerWeightBody", result.bits_per_weight_body);
  out.Set("bitsPerWeightFile", result.bits_per_weight_file);
  out.Set("bytes", as_number(result.bytes));
  out.Set("wallMs", result.wall_ms);
  out.Set("resumedBlocks", as_number(result.resumed_blocks));
  out.Set("plan", from_compress_plan(env, result.plan));
  out.Set("stages", from_stage_times(env, result.stages));
  out.Set("tuned", result.tuned);
  out.Set("heldOutWindows", as_number(result.held_out_windows));
  Napi::Array linears = Napi::Array::New(env, result.linears.size());
  for (uint32_t i = 0; i < result.linears.size(); ++i) {
    const CompressedLinear& linear = result.linears[i];
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("name", linear.name);
    entry.Set("format", linear.format);
    entry.Set("rows", as_number(linear.rows));
    entry.Set("cols", as_number(linear.cols));
    entry.Set("bytes", as_number(linear.bytes));
    entry.Set("bitsPerWeight", linear.bits_per_weight);
    entry.Set("weightError", linear.weight_error);
    entry.Set("outputError", linear.output_error);
    linears.Set(i, entry);
  }
  out.Set("linears", linears);
  return out;
}

Napi::Value from_synthesize_result(Napi::Env env, const SynthesizeResult& result) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("parameters", as_number(result.parameters));
  out.Set("bitsPerWeightBody", result.bits_per_weight_body);
  out.Set("bitsPerWeightFile", result.bits_per_weight_file);
  out.Set("bytes", as_number(result.bytes));
  return out;
}

Napi::Value from_error(Napi::Env env, const Error& error) {
  Napi::Object out = Napi::Error::New(env, error.what()).Value();
  out.Set("code", std::string(error_code_name(error.code())));
  Napi::Object details = Napi::Object::New(env);
  for (const auto& [name, value] : error.details()) details.Set(name, value);
  out.Set("details", details);
  return out;
}

}  // namespace subbit::binding
