// Attention's loops for any processor, rows of an int8 cache, and which kernels a machine has.
#include "backend/cpu/attention_kernels.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/processor.h"

namespace subbit {
namespace {

constexpr int64_t kPartialSums = 32;

float element(const KvRows& rows, int64_t p, int64_t d) {
  const std::byte* row = rows.first + p * kv_row_bytes(rows.type, rows.width);
  if (rows.type == KvType::kI8) return reinterpret_cast<const int8_t*>(row)[d];
  return rows.type == KvType::kF32 ? reinterpret_cast<const float*>(row)[d]
                                   : to_float(reinterpret_cast<const Half*>(row)[d]);
}

void scores_portable(const AttentionKernels::Scores& job) {
  for (int64_t r = 0; r < job.queries; ++r) {
    const float* q = job.q + r * job.q_stride;
    for (int64_t p = 0; p < job.keys.count; ++p) {
      float sums[kPartialSums] = {};
      for (int64_t k = 0; k < job.keys.width; ++k) {
        float& sum = sums[k % kPartialSums];
        sum = std::fma(element(job.keys, p, k), q[k], sum);
      }
      for (int64_t half = kPartialSums / 2; half > 0; half /= 2)
        for (int64_t l = 0; l < half; ++l) sums[l] += sums[l + half];
      job.scores[r * job.scores_stride + p] = sums[0];
    }
  }
}

void weighted_sum_portable(const AttentionKernels::WeightedSum& job) {
  for (int64_t r = 0; r < job.queries; ++r) {
    for (int64_t d = 0; d < job.values.width; ++d) {
      float& sum = job.sums[r * job.sums_stride + d];
      for (int64_t p = 0; p < job.values.count; ++p)
        sum = std::fma(job.weights[r * job.weights_stride + p], element(job.values, p, d), sum);
    }
  }
}

}  // namespace

void narrow_portable(std::span<const float> in, Half* out) {
  for (size_t i = 0; i < in.size(); ++i) out[i] = to_half(in[i]);
}

void store_codes(std::span<const float> in, std::byte* row) {
  constexpr uint32_t kTinyBits = (127u - 100u) << 23;  // 2^-100
  constexpr uint32_t kInfinityBits = 0x7F800000u;
  constexpr float kRounder = 0x1.8p23f;  // adding it rounds to integers, ties to even
  // Compared as bits, so that a NaN is the largest of all.
  uint32_t bits = 0;
  for (const float x : in) bits = std::max(bits, std::bit_cast<uint32_t>(x) & 0x7FFFFFFFu);
  const float largest = std::bit_cast<float>(bits);
  const float scale = bits < kTinyBits ? 0.0f : largest / 127.0f;
  const float inverse = bits < kTinyBits || bits >= kInfinityBits ? 0.0f : 127.0f / largest;
  auto* codes = reinterpret_cast<int8_t*>(row);
  const auto width = static_cast<int64_t>(in.size());
  for (int64_t i = 0; i < width; ++i) {
    const float rounded = in[static_cast<size_t>(i)] * inverse + kRounder;
    codes[i] = static_cast<int8_t>(
        static_cast<int32_t>(std::bit_cast<uint32_t>(rounded) - std::bit_cast<uint32_t>(kRounder)));
  }
  const int64_t padded = (width + 3) / 4 * 4;
  std::fill(codes + width, codes + padded, int8_t{0});
  std::memcpy(row + padded, &scale, sizeof(scale));
}

std::span<const AttentionKernels> attention_kernels() {
  static const AttentionKernels kernels[] = {
#if defined(__x86_64__)
      kAvx512AttentionKernels,
      kAvx2AttentionKernels,
#elif defined(__aarch64__)
      kNeonAttentionKernels,
#endif
      {"portable", scores_portable, weighted_sum_portable, narrow_portable}};
#if defined(__x86_64__)
  return std::span(kernels).subspan(has_avx512() ? 0 : has_avx2() ? 1 : 2);
#else
  return kernels;
#endif
}

}  // namespace subbit
