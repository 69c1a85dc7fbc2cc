// The plan's arithmetic. Config fields and options have been range-checked, so that no product
// here can pass 2^63.
#include "memory/plan_memory.h"

#include <algorithm>
#include <vector>

#include "formats/registry.h"

namespace subbit {
namespace {

// What one engine or worker thread makes resident: its stack as far as kernels use it (a packed
// panel of the GEMM is 56 KiB), the packed strip it keeps (256 KiB), its heap's first pages.
constexpr uint64_t kThreadBytes = 448 << 10;
// Some three dozen blocks of the arena, each rounded up to a cache line; with AddressSanitizer a
// second one lies behind each.
constexpr uint64_t kRoundingBytes = 64 * 256;
// Names, views and manifest entries of one tensor, and one linear's objects.
constexpr uint64_t kTensorBytes = 1 << 10;
// The addon's code and data that running touches, and the JavaScript heap's growth while tokens
// are handed out: measured, 2 to 4 MB, whatever the model.
constexpr uint64_t kRunningBytes = 5 << 20;

uint64_t floats(int64_t count) { return sizeof(float) * static_cast<uint64_t>(count); }

uint64_t weight_scratch(const PlanRequest& request) {
  uint64_t bytes = 0;
  for (const Format* format : all_formats()) {
    std::vector<PlannedMatrix> matrices;
    for (const MatrixFacts& matrix : request.weights.matrices) {
      if (matrix.format != format->name()) continue;
      const auto& options = request.options;
      const int64_t tokens = matrix.is_end ? options.logit_rows : options.chunk_tokens;
      PlannedMatrix planned{matrix.shape, matrix.bytes, tokens};
      if (request.weights.most_terms > 0) planned.terms = request.weights.most_terms;
      matrices.push_back(planned);
    }
    if (!matrices.empty()) bytes += format->scratch_bytes(matrices);
  }
  return bytes;
}

BackendWork backend_work(const PlanRequest& request) {
  BackendWork work;
  work.tokens = request.options.chunk_tokens;
  work.widest_input = std::max(request.widths.hidden, request.widths.mixed);
  work.widest_output = request.widths.hidden;
  work.threads = request.process.threads;
  work.heads = request.config.num_attention_heads;
  work.head_dim = request.config.head_dim;
  const int terms = request.weights.most_terms;
  for (const MatrixFacts& matrix : request.weights.matrices) {
    const auto sides = static_cast<uint64_t>(matrix.shape.rows + matrix.shape.cols);
    const auto rank =
        static_cast<int64_t>(matrix.format == "packed" ? 8 * matrix.bytes / sides : 0);
    work.widest_codes = std::max({work.widest_codes, matrix.shape.cols, rank});
    if (terms != 1 && !matrix.is_end)
      work.term_sums = std::max(work.term_sums, std::max(terms, 2) * matrix.shape.rows);
    work.constant_bytes += sizeof(float) * static_cast<uint64_t>(rank);
  }
  work.constant_bytes += request.weights.widened + request.weights.copied +
                         floats(request.config.head_dim * request.options.context_length);
  return work;
}

}  // namespace

ProcessBytes process_bytes(const ProcessNeeds& needs) {
  return {kThreadBytes * static_cast<uint64_t>(needs.threads + 1),
          needs.process_bytes + kRunningBytes};
}

uint64_t kv_side_bytes(const ModelConfig& config, const MemoryOptions& options) {
  return static_cast<uint64_t>(kv_row_bytes(options.kv_cache, config.head_dim)) *
         static_cast<uint64_t>(config.num_key_value_heads) *
         static_cast<uint64_t>(options.context_length);
}

uint64_t MemoryPlan::total() const {
  return mapped() + kv_cache + activations + scratch + rope + loaded + sampling + threads +
         process + tokenizer + gpu;
}

uint64_t MemoryPlan::peak_load() const { return mapped() + rope + loaded + threads + process; }

MemoryPlan plan_memory(const PlanRequest& request) {
  const ModelConfig& config = request.config;
  const ActivationWidths& widths = request.widths;
  const MemoryOptions& options = request.options;
  const WeightFacts& weights = request.weights;
  MemoryPlan plan;
  plan.body = weights.body;
  plan.tables = weights.tables;
  plan.embedding = weights.embedding;
  plan.head = weights.head;
  plan.file_rest = weights.rest;
  plan.kv_cache =
      2 * static_cast<uint64_t>(config.num_hidden_layers) * kv_side_bytes(config, options);
  const int64_t row = 2 * widths.hidden + widths.wide + widths.mixed + 1;
  plan.activations = floats(row * options.chunk_tokens) + floats(widths.vocab * options.logit_rows);
  plan.scratch = weight_scratch(request) + kRoundingBytes;
  const BackendWork work = backend_work(request);
  if (request.backend_scratch != nullptr) plan.scratch += request.backend_scratch(work);
  if (request.gpu_bytes != nullptr) plan.gpu = request.gpu_bytes(work);
  plan.rope = floats(config.head_dim * options.context_length);
  plan.loaded = weights.widened + weights.copied + kTensorBytes * weights.matrices.size();
  // Logits, their order, and their probabilities as doubles.
  plan.sampling = static_cast<uint64_t>(widths.vocab) * (4 + 4 + 8);
  const ProcessBytes process = process_bytes(request.process);
  plan.threads = process.threads;
  plan.process = process.process;
  plan.tokenizer = request.process.tokenizer_bytes;
  return plan;
}

int64_t largest_context(PlanRequest request, uint64_t limit_bytes, int64_t most) {
  const int64_t chunk = request.options.chunk_tokens;
  const auto fits = [&](int64_t context) {
    request.options.context_length = context;
    request.options.chunk_tokens = std::min(chunk, context);
    return plan_memory(request).total() <= limit_bytes;
  };
  int64_t low = 0;  // fits, or nothing does
  int64_t high = most + 1;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (fits(middle) ? low : high) = middle;
  }
  return low;
}

}  // namespace subbit
