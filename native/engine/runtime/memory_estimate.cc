// estimate_memory(): headers in, bytes out.
#include "runtime/memory_estimate.h"

#include <algorithm>
#include <utility>

#include "backend/cpu/cpu_backend.h"
#include "backend/gpu/gpu_backend.h"
#include "decoding/decoder.h"
#include "memory/system_memory.h"
#include "models/model.h"
#include "runtime/devices.h"
#include "runtime/opened_model.h"

namespace subbit {
namespace {

// A safetensors header takes about this much for one tensor; its data begins on a page.
constexpr uint64_t kHeaderEntryBytes = 128;
constexpr uint64_t kDataAlignment = 16384;

/// What both kinds of source come to.
struct Source {
  const Json& config;
  std::string where;
  std::vector<TensorLength> tensors;
  uint64_t file_bytes = 0;
  uint64_t copied_bytes = 0;
  int most_terms = 0;
};

int64_t body_weights(const Manifest& manifest) {
  int64_t weights = 0;
  for (const BlockSpec& block : manifest.blocks) {
    for (const LinearSpec& linear : block.linears) weights += linear.shape.count();
  }
  return weights;
}

uint64_t file_bytes_of(const std::vector<TensorLength>& tensors) {
  uint64_t data = 0;
  for (const TensorLength& tensor : tensors) data += tensor.bytes;
  const uint64_t header = kHeaderEntryBytes * tensors.size();
  return data + (header + kDataAlignment - 1) / kDataAlignment * kDataAlignment;
}

int64_t checked_context(const MemoryRequest& request, const ModelConfig& config) {
  if (request.context_length == 0) return config.max_position_embeddings;
  constexpr int64_t kMost = 1 << 24;
  if (request.context_length >= 1 && request.context_length <= kMost) {
    return request.context_length;
  }
  throw Error(ErrorCode::kInvalidOption, "the context length",
              {{"expected", "1 to " + std::to_string(kMost)},
               {"actual", std::to_string(request.context_length)}});
}

void fill(const MemoryPlan& plan, MemoryEstimate& out) {
  out.weights_body = plan.body;
  out.codebooks = plan.tables;
  out.embeddings = plan.embedding;
  out.lm_head = plan.head;
  out.file_rest = plan.file_rest;
  out.kv_cache = plan.kv_cache;
  out.activations = plan.activations;
  out.scratch = plan.scratch;
  out.rope = plan.rope;
  out.loaded = plan.loaded;
  out.sampling = plan.sampling;
  out.threads = plan.threads;
  out.tokenizer = plan.tokenizer;
  out.gpu = plan.gpu;
  out.runtime = plan.process;
  out.total = plan.total();
  out.mapped = plan.mapped();
  out.private_bytes = plan.private_bytes();
  out.peak_load = plan.peak_load();
  out.peak_prefill = plan.peak_prefill();
}

PlannedLoad plan_source(const Source& source, const MemoryRequest& request) {
  const Architecture& architecture = find_architecture(source.config, source.where);
  const Manifest manifest = architecture.manifest(source.config, source.where);
  PlannedLoad out;
  out.request.config = architecture.parse_config(source.config, source.where);
  out.request.widths = architecture.activation_widths(source.config, source.where);
  out.request.weights =
      weight_facts(manifest, out.request.config, source.tensors, source.file_bytes);
  out.request.weights.copied = source.copied_bytes;
  out.request.weights.most_terms = source.most_terms;
  out.request.backend_scratch = cpu_scratch_bytes;
  if (request.device != DeviceChoice::kCpu && has_gpu()) out.request.gpu_bytes = gpu_bytes;
  const int64_t context = checked_context(request, out.request.config);
  out.request.options = Decoder::memory_options(context, kv_type(request.kv_cache));
  const ProcessMemory process = process_memory();
  out.request.process.threads = resolve_threads(request.threads);
  out.request.process.process_bytes =
      request.process_bytes != 0 ? request.process_bytes : process.resident;
  out.request.process.tokenizer_bytes = request.tokenizer_bytes;
  out.plan = plan_memory(out.request);

  MemoryEstimate& estimate = out.estimate;
  fill(out.plan, estimate);
  estimate.architecture = out.request.config.model_type;
  estimate.parameters = manifest.parameters;
  const WeightFacts& weights = out.request.weights;
  estimate.bits_per_weight_body =
      bits_per_weight(weights.body + weights.tables, body_weights(manifest));
  estimate.context_length = context;
  estimate.trained_context_length = out.request.config.max_position_embeddings;
  estimate.kv_cache_type = request.kv_cache;
  estimate.limit = memory_limit(request.budget, system_memory(), process);
  PlanRequest longest = out.request;
  longest.options.chunk_tokens = Decoder::kChunkTokens;
  longest.options.logit_rows = Decoder::kLogitRows;
  estimate.max_context_length =
      largest_context(longest, estimate.limit.bytes, estimate.trained_context_length);
  return out;
}

PlannedLoad plan_shape(const MemoryRequest& request) {
  const std::string where = "the shape";
  if (!(request.bits_per_weight > 0 && request.bits_per_weight <= 32)) {
    throw Error(
        ErrorCode::kInvalidOption, "the bits per weight",
        {{"expected", "above 0, at most 32"}, {"actual", std::to_string(request.bits_per_weight)}});
  }
  const Json config = Json::parse(request.config, where);
  const Architecture& architecture = find_architecture(config, where);
  Source source{config, where, {}, 0, 0, 1};
  source.tensors =
      imagined_tensors(architecture.manifest(config, where),
                       architecture.parse_config(config, where), request.bits_per_weight);
  source.file_bytes = file_bytes_of(source.tensors);
  return plan_source(source, request);
}

std::string mebibytes(uint64_t bytes) {
  return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MiB";
}

}  // namespace

PlannedLoad plan_load(const Checkpoint& checkpoint, const MemoryRequest& request) {
  Source source{
      checkpoint.config(),     checkpoint.path(),          {},
      checkpoint.file_bytes(), checkpoint.private_bytes(), most_terms(checkpoint.config())};
  for (const TensorView& tensor : checkpoint.tensors()) {
    source.tensors.push_back({tensor.name, tensor.bytes.size()});
  }
  return plan_source(source, request);
}

void refuse_for_memory(const MemoryEstimate& e) {
  const std::string fits = e.max_context_length > 0
                               ? "a context of " + std::to_string(e.max_context_length)
                               : "no context of this model";
  std::vector<ErrorDetail> details = {
      {"expected",
       "at most " + mebibytes(e.limit.bytes) + " (" + e.limit.source + "); " + fits + " would fit"},
      {"actual", mebibytes(e.total) + " with a context of " + std::to_string(e.context_length)},
      {"limit_bytes", std::to_string(e.limit.bytes)},
      {"limit_source", e.limit.source},
      {"total_bytes", std::to_string(e.total)},
      {"context_length", std::to_string(e.context_length)},
      {"max_context_length", std::to_string(e.max_context_length)}};
  const std::pair<const char*, uint64_t> parts[] = {{"weights_body", e.weights_body},
                                                    {"codebooks", e.codebooks},
                                                    {"embeddings", e.embeddings},
                                                    {"lm_head", e.lm_head},
                                                    {"file_rest", e.file_rest},
                                                    {"kv_cache", e.kv_cache},
                                                    {"activations", e.activations},
                                                    {"scratch", e.scratch},
                                                    {"rope", e.rope},
                                                    {"loaded", e.loaded},
                                                    {"sampling", e.sampling},
                                                    {"threads", e.threads},
                                                    {"tokenizer", e.tokenizer},
                                                    {"gpu", e.gpu},
                                                    {"runtime", e.runtime}};
  for (const auto& [name, bytes] : parts) {
    details.emplace_back(std::string(name) + "_bytes", std::to_string(bytes));
  }
  throw Error(ErrorCode::kInsufficientMemory, "the model would not fit in memory",
              std::move(details));
}

MemoryEstimate estimate_memory(const MemoryRequest& request) {
  if (request.path.empty()) return plan_shape(request).estimate;
  return plan_load(Checkpoint::open(request.path, CheckpointData::kHeadersOnly), request).estimate;
}

}  // namespace subbit
