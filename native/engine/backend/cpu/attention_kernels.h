// The seam inside attention: the loops that have a kernel per instruction set, all with the same
// bits. They take several queries at a time, so that a stored key or value is loaded and widened
// once for all of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "backend/backend.h"
#include "base/half.h"

namespace subbit {

/// Consecutive positions of one head's keys or values, kv_row_bytes from row to row. Of kI8 the
/// codes alone count: who multiplies minds the scales.
struct KvRows {
  KvType type = KvType::kF32;
  const std::byte* first = nullptr;
  int64_t count = 0;
  int64_t width = 0;  // head_dim
};

struct AttentionKernels {
  /// scores[r, p] = key p . q[r], in 32 partial sums (column k in sum k % 32, each step fused),
  /// folded in halves.
  struct Scores {
    KvRows keys;
    int64_t queries = 0;
    const float* q = nullptr;  // [queries, width]
    int64_t q_stride = 0;
    float* scores = nullptr;  // [queries, keys.count]
    int64_t scores_stride = 0;
  };
  /// sums[r, d] += weights[r, p] * values[p, d] for p in order, each step fused.
  struct WeightedSum {
    KvRows values;
    int64_t queries = 0;
    const float* weights = nullptr;  // [queries, values.count]
    int64_t weights_stride = 0;
    float* sums = nullptr;  // [queries, width]
    int64_t sums_stride = 0;
  };
  const char* name = "";
  void (*scores)(const Scores& job) = nullptr;
  void (*weighted_sum)(const WeightedSum& job) = nullptr;
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

/// narrow, one by one: for the ends of the others.
void narrow_portable(std::span<const float> in, Half* out);
#if defined(__x86_64__)
extern const AttentionKernels kAvx512AttentionKernels;
extern const AttentionKernels kAvx2AttentionKernels;
#elif defined(__aarch64__)
extern const AttentionKernels kNeonAttentionKernels;
#endif

}  // namespace subbit
