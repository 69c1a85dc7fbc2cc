// Byte counts as JavaScript numbers: exact below 2^53.
#include "convert_memory.h"

#include <string>
#include <utility>

#include "convert.h"

namespace subbit::binding {
namespace {

using Count = std::pair<const char*, uint64_t>;

template <size_t N>
Napi::Object counts(Napi::Env env, const Count (&fields)[N]) {
  Napi::Object out = Napi::Object::New(env);
  for (const auto& [name, value] : fields) out.Set(name, static_cast<double>(value));
  return out;
}

Napi::Object from_process_memory(Napi::Env env, const ProcessMemory& memory) {
  const Count fields[] = {{"residentBytes", memory.resident},
                          {"fileBytes", memory.file},
                          {"anonymousBytes", memory.anonymous},
                          {"peakResidentBytes", memory.peak},
                          {"footprintBytes", memory.footprint}};
  return counts(env, fields);
}

}  // namespace

MemoryRequest to_memory_request(const Napi::Object& in) {
  MemoryRequest out;
  out.path = text_field(in, "path");
  out.config = text_field(in, "config");
  out.bits_per_weight = number_field(in, "bitsPerWeight");
  out.threads = static_cast<int>(number_field(in, "threads"));
  out.context_length = static_cast<int64_t>(number_field(in, "contextLength"));
  out.kv_cache = to_kv_cache_type(text_field(in, "kvCache"));
  out.budget = static_cast<uint64_t>(number_field(in, "budget"));
  out.tokenizer_bytes = static_cast<uint64_t>(number_field(in, "tokenizerBytes"));
  out.device = text_field(in, "device") == "cpu" ? DeviceChoice::kCpu : DeviceChoice::kAuto;
  return out;
}

Napi::Value from_system_memory(Napi::Env env, const SystemMemory& memory) {
  const Count fields[] = {
      {"physicalBytes", memory.physical},      {"availableBytes", memory.available},
      {"groupLimitBytes", memory.group_limit}, {"groupLeftBytes", memory.group_left},
      {"wiredLimitBytes", memory.wired_limit}, {"swapUsedBytes", memory.swap_used}};
  Napi::Object out = counts(env, fields);
  out.Set("pressure", memory.pressure);
  return out;
}

Napi::Value from_memory_estimate(Napi::Env env, const MemoryEstimate& e) {
  const Count items[] = {{"weightsBody", e.weights_body},
                         {"codebooks", e.codebooks},
                         {"embeddings", e.embeddings},
                         {"lmHead", e.lm_head},
                         {"fileRest", e.file_rest},
                         {"kvCache", e.kv_cache},
                         {"activations", e.activations},
                         {"scratch", e.scratch},
                         {"rope", e.rope},
                         {"loaded", e.loaded},
                         {"sampling", e.sampling},
                         {"threads", e.threads},
                         {"tokenizer", e.tokenizer},
                         {"gpu", e.gpu},
                         {"runtime", e.runtime}};
  const Count sums[] = {{"totalBytes", e.total},
                        {"mappedBytes", e.mapped},
                        {"privateBytes", e.private_bytes},
                        {"peakLoadBytes", e.peak_load},
                        {"peakPrefillBytes", e.peak_prefill},
                        {"limitBytes", e.limit.bytes}};
  Napi::Object out = counts(env, sums);
  out.Set("items", counts(env, items));
  out.Set("limitSource", e.limit.source);
  out.Set("fits", e.fits());
  out.Set("architecture", e.architecture);
  out.Set("parameters", static_cast<double>(e.parameters));
  out.Set("bitsPerWeightBody", e.bits_per_weight_body);
  out.Set("contextLength", static_cast<double>(e.context_length));
  out.Set("trainedContextLength", static_cast<double>(e.trained_context_length));
  out.Set("maxContextLength", static_cast<double>(e.max_context_length));
  return out;
}

Napi::Value from_memory_report(Napi::Env env, const MemoryReport& report) {
  const Count model[] = {{"kvCacheUsedBytes", report.kv_cache_used},
                         {"arenaPlannedBytes", report.arena_planned},
                         {"arenaTouchedBytes", report.arena_extent},
                         {"unplannedBytes", report.arena_overflow}};
  Napi::Object out = counts(env, model);
  out.Set("planned", from_memory_estimate(env, report.planned));
  out.Set("process", from_process_memory(env, report.process));
  return out;
}

}  // namespace subbit::binding
