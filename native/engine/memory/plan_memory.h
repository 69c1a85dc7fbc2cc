// How many bytes running a model takes beyond its mapped weights: one pure function over header
// facts. Whoever allocates asks here first and allocates exactly this.
#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "models/model.h"

namespace subbit {

struct MemoryOptions {
  int64_t context_length = 0;  // positions the KV cache holds
  int64_t chunk_tokens = 0;    // most tokens of one forward call
  int64_t logit_rows = 0;      // most rows of logits held at once
  KvType kv_cache = KvType::kF16;
};

struct MemoryPlan {
  uint64_t kv_cache_bytes = 0;
  uint64_t activation_bytes = 0;  // residual stream, normed, wide, mixed, row scales
  uint64_t logit_bytes = 0;
  uint64_t rope_bytes = 0;
  uint64_t total() const { return kv_cache_bytes + activation_bytes + logit_bytes + rope_bytes; }
};

MemoryPlan plan_memory(const ModelConfig& config, const ActivationWidths& widths,
                       const MemoryOptions& options);

/// Bytes of one layer's keys, which equal those of its values.
uint64_t kv_side_bytes(const ModelConfig& config, const MemoryOptions& options);

}  // namespace subbit
