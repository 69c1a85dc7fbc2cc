// How many bytes running a model takes: one pure function over header facts, the same for an
// estimate, a load and a command line. Whoever allocates asks here first and allocates exactly
// this; tests compare what was touched with what was planned.
#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "memory/weight_facts.h"
#include "models/model.h"

namespace subbit {

struct MemoryOptions {
  int64_t context_length = 0;  // positions the KV cache holds
  int64_t chunk_tokens = 0;    // most tokens of one forward call
  int64_t logit_rows = 0;      // most rows of logits held at once
  KvType kv_cache = KvType::kF16;
};

/// The process around the model.
struct ProcessNeeds {
  int threads = 1;
  uint64_t process_bytes = 0;    // resident before anything of the model is there
  uint64_t tokenizer_bytes = 0;  // what text work will add
};

/// What a process holds whatever runs in it.
struct ProcessBytes {
  uint64_t threads = 0;  // stacks and what workers keep for themselves
  uint64_t process = 0;  // what was there before, and what running adds
};
ProcessBytes process_bytes(const ProcessNeeds& needs);

struct PlanRequest {
  ModelConfig config;
  ActivationWidths widths;
  WeightFacts weights;
  BackendScratch backend_scratch = nullptr;
  BackendScratch gpu_bytes = nullptr;  // where a GPU may do the work
  MemoryOptions options;
  ProcessNeeds process;
};

/// Every byte the process will hold with the context full and all weights touched.
struct MemoryPlan {
  // File-backed and clean: the system may take these pages back and read them again.
  uint64_t body = 0;
  uint64_t tables = 0;
  uint64_t embedding = 0;
  uint64_t head = 0;
  uint64_t file_rest = 0;
  // Private to the process: nothing but swap can take them.
  uint64_t kv_cache = 0;
  uint64_t activations = 0;  // residual stream, normed, wide, mixed, row scales, logits
  uint64_t scratch = 0;      // of the back end and the weights' formats
  uint64_t rope = 0;         // rotary tables
  uint64_t loaded = 0;       // what loading makes of the weights: float scales, copies, names
  uint64_t sampling = 0;     // logits, order and probabilities of one token
  uint64_t threads = 0;      // stacks and what workers keep for themselves
  uint64_t process = 0;      // what was there before
  uint64_t tokenizer = 0;
  uint64_t gpu = 0;  // what a GPU allocates for itself; weights and cache it shares

  uint64_t mapped() const { return body + tables + embedding + head + file_rest; }
  /// What the engine's arena holds.
  uint64_t arena() const { return activations + scratch; }
  uint64_t total() const;
  uint64_t private_bytes() const { return total() - mapped(); }
  /// The most that is held until loading has returned, should it touch every weight.
  uint64_t peak_load() const;
  /// The same until the first token, for a prompt that fills the context: the total.
  uint64_t peak_prefill() const { return total(); }
};

MemoryPlan plan_memory(const PlanRequest& request);

/// The largest context up to `most` whose plan is within `limit_bytes`; 0 if not even one position
/// is.
int64_t largest_context(PlanRequest request, uint64_t limit_bytes, int64_t most);

/// Bytes of one layer's keys, which equal those of its values.
uint64_t kv_side_bytes(const ModelConfig& config, const MemoryOptions& options);

}  // namespace subbit
