// The seam inside attention: the loops that have a kernel per instruction set, all with the same
// bits. Scores need none of their own: they are dense dots of keys with a query.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "backend/backend.h"
#include "base/half.h"

namespace subbit {

struct AttentionKernels {
  /// out[d] = the sum over positions p, in order, of weights[p] * values[p, d]; each step a product
  /// rounded and then a sum rounded. `values` [weights.size(), out.size()] of `type`, kv_row_bytes
  /// from row to row; of kI8 the codes alone count, their scales being in the weights.
  struct WeightedSum {
    KvType type = KvType::kF32;
    const void* values = nullptr;
    std::span<const float> weights;
    std::span<float> out;
  };
  /// scores[p] = (codes of row p . q) * scale of row p, for rows of kI8. The dot in 32 partial sums
  /// folded in halves, like dense_dot's.
  struct CodeScores {
    const std::byte* rows = nullptr;
    std::span<const float> q;
    std::span<float> scores;
  };
  const char* name = "";
  void (*weighted_sum)(const WeightedSum& job) = nullptr;
  void (*code_scores)(const CodeScores& job) = nullptr;
  /// out[i] = to_half(in[i]); a NaN stays a NaN.
  void (*narrow)(std::span<const float> in, Half* out) = nullptr;
};

/// The scale of a kI8 row of `head_dim` codes.
inline float code_scale(const std::byte* row, int64_t head_dim) {
  float scale;
  std::memcpy(&scale, row + (head_dim + 3) / 4 * 4, sizeof(scale));
  return scale;
}

/// Writes a kI8 row: codes rint(x * 127 / largest |x|), scale largest |x| / 127. A row that is not
/// finite gets a scale that is not; one below 2^-100 is zero.
void store_codes(std::span<const float> in, std::byte* row);

/// Kernels this machine can run, fastest first; the last is portable.
std::span<const AttentionKernels> attention_kernels();

}  // namespace subbit
