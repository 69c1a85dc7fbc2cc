// Fields by name; lib/native.ts has the types on the other side.
#include "convert_plan.h"

#include <string>
#include <utility>

#include "convert.h"

namespace subbit::binding {
namespace {

double number(const Napi::Object& in, const char* name) {
  const Napi::Value value = in.Get(name);
  if (!value.IsNumber())
    throw Napi::TypeError::New(in.Env(), std::string("field ") + name + " is not a number");
  return value.As<Napi::Number>().DoubleValue();
}

std::string text(const Napi::Object& in, const char* name) {
  const Napi::Value value = in.Get(name);
  if (!value.IsString())
    throw Napi::TypeError::New(in.Env(), std::string("field ") + name + " is not a string");
  return value.As<Napi::String>().Utf8Value();
}

Napi::Object object(const Napi::Object& in, const char* name) {
  const Napi::Value value = in.Get(name);
  if (!value.IsObject())
    throw Napi::TypeError::New(in.Env(), std::string("field ") + name + " is not an object");
  return value.As<Napi::Object>();
}

CompressTarget to_target(const Napi::Object& in) {
  CompressTarget target;
  const std::string unit = text(in, "unit");
  if (unit == "fileBits") target.unit = CompressTarget::Unit::kFileBits;
  if (unit == "fileBytes") target.unit = CompressTarget::Unit::kFileBytes;
  if (unit == "memoryBytes") target.unit = CompressTarget::Unit::kMemoryBytes;
  target.amount = number(in, "amount");
  if (in.Has("contextLength"))
    target.context_length = static_cast<int64_t>(number(in, "contextLength"));
  return target;
}

KeepRule to_rule(const Napi::Object& in) {
  KeepRule rule;
  rule.pattern = text(in, "pattern");
  const std::string kind = text(in, "rule");
  if (kind == "bits") rule.rule = KeepRule::Rule::kBits;
  if (kind == "atLeast") rule.rule = KeepRule::Rule::kAtLeast;
  rule.bits = number(in, "bits");
  return rule;
}

CalibrationSize to_size(const Napi::Object& in) {
  return {static_cast<int64_t>(number(in, "windows")), static_cast<int64_t>(number(in, "tokens"))};
}

const char* part_name(PlannedTensor::Part part) {
  const char* const names[] = {"body", "embeddings", "lmHead", "norms", "header"};
  return names[static_cast<int>(part)];
}

Napi::Object from_tensor(Napi::Env env, const PlannedTensor& tensor) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("name", tensor.name);
  out.Set("format", tensor.format);
  out.Set("part", part_name(tensor.part));
  out.Set("rows", static_cast<double>(tensor.rows));
  out.Set("cols", static_cast<double>(tensor.cols));
  out.Set("bytes", static_cast<double>(tensor.bytes));
  out.Set("bitsPerWeight", tensor.bits_per_weight);
  out.Set("predictedError", tensor.predicted_error);
  return out;
}

Napi::Object from_compress_memory(Napi::Env env, const CompressMemory& memory) {
  Napi::Object out = Napi::Object::New(env);
  const auto set = [&](const char* name, uint64_t bytes) {
    out.Set(name, static_cast<double>(bytes));
  };
  set("original", memory.original);
  set("result", memory.result);
  set("process", memory.process);
  set("threads", memory.threads);
  set("tokenizer", memory.tokenizer);
  set("embeddings", memory.ends);
  set("text", memory.text);
  Napi::Array stages = Napi::Array::New(env, memory.stages.size());
  for (uint32_t i = 0; i < memory.stages.size(); ++i) {
    Napi::Object stage = Napi::Object::New(env);
    stage.Set("name", memory.stages[i].name);
    stage.Set("bytes", static_cast<double>(memory.stages[i].bytes));
    stages.Set(i, stage);
  }
  out.Set("stages", stages);
  return out;
}

Napi::Object from_cost(Napi::Env env, const PredictedCost& cost) {
  const char* const efforts[] = {"fast", "balanced", "max"};
  Napi::Object out = Napi::Object::New(env);
  out.Set("effort", efforts[static_cast<int>(cost.effort)]);
  out.Set("ms", cost.ms);
  out.Set("peakBytes", static_cast<double>(cost.memory.peak()));
  out.Set("privateBytes", static_cast<double>(cost.memory.private_bytes()));
  out.Set("memory", from_compress_memory(env, cost.memory));
  out.Set("stages", from_stage_times(env, cost.stages));
  return out;
}

}  // namespace

Napi::Value from_stage_times(Napi::Env env, const std::vector<StageTime>& stages) {
  Napi::Array out = Napi::Array::New(env, stages.size());
  for (uint32_t i = 0; i < stages.size(); ++i) {
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("name", stages[i].name);
    entry.Set("ms", stages[i].ms);
    out.Set(i, entry);
  }
  return out;
}

CompressStages::Forms to_forms(const std::string& name) {
  if (name == "tables") return CompressStages::Forms::kTables;
  if (name == "codes") return CompressStages::Forms::kCodes;
  if (name == "mixed") return CompressStages::Forms::kMixed;
  return CompressStages::Forms::kFactored;
}

void read_plan_options(const Napi::Object& in, CompressRequest& out) {
  out.target = to_target(object(in, "target"));
  if (in.Has("keep")) {
    const Napi::Array rules = object(in, "keep").As<Napi::Array>();
    for (uint32_t i = 0; i < rules.Length(); ++i)
      out.keep.push_back(to_rule(rules.Get(i).ToObject()));
  }
  if (in.Has("forms")) out.stages.forms = to_forms(text(in, "forms"));
  if (in.Has("sensitivity") && text(in, "sensitivity") == "measured")
    out.stages.sensitivity_windows = kSensitivityWindows;
  if (in.Has("ends")) {
    const Napi::Object ends = object(in, "ends");
    out.ends.embedding = static_cast<int>(number(ends, "embeddings"));
    out.ends.head = static_cast<int>(number(ends, "lmHead"));
  }
}

CompressPlanRequest to_compress_plan_request(const Napi::Object& in) {
  CompressPlanRequest out;
  out.compress.source = text(in, "source");
  out.compress.threads = static_cast<int>(number(in, "threads"));
  out.compress.tokenizer_bytes = static_cast<uint64_t>(number(in, "tokenizerBytes"));
  read_plan_options(in, out.compress);
  const Napi::Object sizes = object(in, "calibration");
  out.fast = to_size(object(sizes, "fast"));
  out.balanced = to_size(object(sizes, "balanced"));
  out.max = to_size(object(sizes, "max"));
  return out;
}

Napi::Value from_compress_plan(Napi::Env env, const CompressPlan& plan) {
  Napi::Object out = Napi::Object::New(env);
  Napi::Array tensors = Napi::Array::New(env, plan.tensors.size());
  for (uint32_t i = 0; i < plan.tensors.size(); ++i)
    tensors.Set(i, from_tensor(env, plan.tensors[i]));
  out.Set("tensors", tensors);
  out.Set("bitsPerWeightBody", plan.bits_per_weight_body);
  out.Set("bitsPerWeightFile", plan.bits_per_weight_file);
  out.Set("bytes", static_cast<double>(plan.bytes));
  out.Set("bodyBytes", static_cast<double>(plan.body_bytes));
  out.Set("memoryBytes", static_cast<double>(plan.memory_bytes));
  out.Set("contextLength", static_cast<double>(plan.context_length));
  Napi::Array costs = Napi::Array::New(env, plan.costs.size());
  for (uint32_t i = 0; i < plan.costs.size(); ++i) costs.Set(i, from_cost(env, plan.costs[i]));
  out.Set("costs", costs);
  out.Set("gemmGflops", plan.gemm_gflops);
  return out;
}

}  // namespace subbit::binding
