// The plan's arithmetic. Config fields and options have been range-checked, so that no product
// here can pass 2^63.
#include "memory/plan_memory.h"

namespace subbit {

uint64_t kv_side_bytes(const ModelConfig& config, const MemoryOptions& options) {
  const uint64_t element = options.kv_cache == KvType::kF16 ? 2 : 4;
  return element * static_cast<uint64_t>(config.num_key_value_heads) *
         static_cast<uint64_t>(config.head_dim) * static_cast<uint64_t>(options.context_length);
}

MemoryPlan plan_memory(const ModelConfig& config, const ActivationWidths& widths,
                       const MemoryOptions& options) {
  MemoryPlan plan;
  plan.kv_cache_bytes =
      2 * static_cast<uint64_t>(config.num_hidden_layers) * kv_side_bytes(config, options);
  const auto row = static_cast<uint64_t>(2 * widths.hidden + widths.wide + widths.mixed + 1);
  plan.activation_bytes = sizeof(float) * row * static_cast<uint64_t>(options.chunk_tokens);
  plan.logit_bytes = sizeof(float) * static_cast<uint64_t>(widths.vocab) *
                     static_cast<uint64_t>(options.logit_rows);
  plan.rope_bytes = sizeof(float) * static_cast<uint64_t>(config.head_dim) *
                    static_cast<uint64_t>(options.context_length);
  return plan;
}

}  // namespace subbit
