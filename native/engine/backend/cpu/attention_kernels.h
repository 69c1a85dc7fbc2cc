// The seam inside attention: the loops that have a kernel per instruction set, all with the same
// bits. Scores need none of their own: they are dense dots of keys with a query.
#pragma once

#include <cstdint>
#include <span>

#include "backend/backend.h"
#include "base/half.h"

namespace subbit {

struct AttentionKernels {
  /// out[d] = the sum over positions p, in order, of weights[p] * values[p, d]; each step a product
  /// rounded and then a sum rounded. `values` [weights.size(), out.size()] of `type`, dense.
  struct WeightedSum {
    KvType type = KvType::kF32;
    const void* values = nullptr;
    std::span<const float> weights;
    std::span<float> out;
  };
  const char* name = "";
  void (*weighted_sum)(const WeightedSum& job) = nullptr;
  /// out[i] = to_half(in[i]); a NaN stays a NaN.
  void (*narrow)(std::span<const float> in, Half* out) = nullptr;
};

/// Kernels this machine can run, fastest first; the last is portable.
std::span<const AttentionKernels> attention_kernels();

}  // namespace subbit
