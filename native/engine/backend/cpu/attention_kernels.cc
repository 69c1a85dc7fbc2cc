// AVX-512, AVX2, NEON and portable loops of attention.
#include "backend/cpu/attention_kernels.h"

#include <algorithm>
#include <bit>

#include "base/processor.h"

#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 takes its own headers' undefined registers for a mistake (its bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace subbit {
namespace {

using WeightedSum = AttentionKernels::WeightedSum;
using CodeScores = AttentionKernels::CodeScores;

constexpr int64_t kDotLanes = 32;

int64_t row_bytes(const WeightedSum& job) { return kv_row_bytes(job.type, std::ssize(job.out)); }

float value_at(const WeightedSum& job, int64_t p, int64_t d) {
  const void* row = static_cast<const std::byte*>(job.values) + p * row_bytes(job);
  if (job.type == KvType::kI8) return static_cast<const int8_t*>(row)[d];
  return job.type == KvType::kF32 ? static_cast<const float*>(row)[d]
                                  : to_float(static_cast<const Half*>(row)[d]);
}

/// Columns [first, out.size()) one at a time.
void weighted_sum_from(const WeightedSum& job, int64_t first) {
  const int64_t width = std::ssize(job.out);
  for (int64_t d = first; d < width; ++d) {
    float sum = 0.0f;
    for (int64_t p = 0; p < std::ssize(job.weights); ++p)
      sum += job.weights[static_cast<size_t>(p)] * value_at(job, p, d);
    job.out[static_cast<size_t>(d)] = sum;
  }
}

/// Lanes folded in halves: l + (l + 16), then 8, 4, 2, 1.
float fold_lanes(float* sums) {
  for (int64_t half = kDotLanes / 2; half > 0; half /= 2)
    for (int64_t l = 0; l < half; ++l) sums[l] += sums[l + half];
  return sums[0];
}

void code_scores_portable(const CodeScores& job) {
  const int64_t width = std::ssize(job.q);
  for (int64_t p = 0; p < std::ssize(job.scores); ++p) {
    const std::byte* row = job.rows + p * kv_row_bytes(KvType::kI8, width);
    const auto* codes = reinterpret_cast<const int8_t*>(row);
    float sums[kDotLanes] = {};
    for (int64_t k = 0; k < width; ++k)
      sums[k % kDotLanes] += static_cast<float>(codes[k]) * job.q[static_cast<size_t>(k)];
    job.scores[static_cast<size_t>(p)] = fold_lanes(sums) * code_scale(row, width);
  }
}

/// The last columns of a row, fewer than 32, filled up with zeros.
struct CodeTail {
  int8_t codes[kDotLanes] = {};
  float q[kDotLanes] = {};

  CodeTail(const CodeScores& job, const std::byte* row, int64_t first) {
    const auto count = static_cast<size_t>(std::ssize(job.q) - first);
    std::memcpy(codes, row + first, count);
    std::copy_n(job.q.data() + first, count, q);
  }
};

void weighted_sum_portable(const WeightedSum& job) { weighted_sum_from(job, 0); }

void narrow_portable(std::span<const float> in, Half* out) {
  for (size_t i = 0; i < in.size(); ++i) out[i] = to_half(in[i]);
}

#if defined(__x86_64__)

#define SUBBIT_AVX2 __attribute__((target("avx2,f16c")))

SUBBIT_AVX2 inline __m256 load8(const float* p) { return _mm256_loadu_ps(p); }

SUBBIT_AVX2 inline __m256 load8(const int8_t* p) {
  const __m128i codes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes));
}

SUBBIT_AVX2 inline __m256 load8(const Half* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

/// Columns [first, first + 8 * Vectors): their sums stay in registers over all positions.
template <int Vectors, typename Stored>
SUBBIT_AVX2 void sum_columns_avx2(const WeightedSum& job, int64_t first) {
  const int64_t stride = row_bytes(job);
  const auto* row = static_cast<const std::byte*>(job.values);
  __m256 sums[Vectors];
  for (auto& sum : sums) sum = _mm256_setzero_ps();
  for (const float weight : job.weights) {
    const __m256 factor = _mm256_set1_ps(weight);
    const auto* value = reinterpret_cast<const Stored*>(row) + first;
    for (int v = 0; v < Vectors; ++v)
      sums[v] = _mm256_add_ps(sums[v], _mm256_mul_ps(factor, load8(value + 8 * v)));
    row += stride;
  }
  for (int v = 0; v < Vectors; ++v) _mm256_storeu_ps(job.out.data() + first + 8 * v, sums[v]);
}

template <typename Stored>
void weighted_sum_typed(const WeightedSum& job) {
  const int64_t width = std::ssize(job.out);
  int64_t d = 0;
  for (; d + 64 <= width; d += 64) sum_columns_avx2<8, Stored>(job, d);
  for (; d + 32 <= width; d += 32) sum_columns_avx2<4, Stored>(job, d);
  for (; d + 16 <= width; d += 16) sum_columns_avx2<2, Stored>(job, d);
  for (; d + 8 <= width; d += 8) sum_columns_avx2<1, Stored>(job, d);
  weighted_sum_from(job, d);
}

SUBBIT_AVX2 inline void add_32(const int8_t* codes, const float* q, __m256 sums[4]) {
  for (int v = 0; v < 4; ++v) {
    const __m256 product = _mm256_mul_ps(load8(codes + 8 * v), _mm256_loadu_ps(q + 8 * v));
    sums[v] = _mm256_add_ps(sums[v], product);
  }
}

SUBBIT_AVX2 void code_scores_vector(const CodeScores& job) {
  const int64_t width = std::ssize(job.q);
  const int64_t whole = width / kDotLanes * kDotLanes;
  const int64_t stride = kv_row_bytes(KvType::kI8, width);
  const std::byte* row = job.rows;
  for (float& score : job.scores) {
    __m256 sums[4];
    for (auto& sum : sums) sum = _mm256_setzero_ps();
    const auto* codes = reinterpret_cast<const int8_t*>(row);
    for (int64_t k = 0; k < whole; k += kDotLanes) add_32(codes + k, job.q.data() + k, sums);
    if (whole < width) {
      const CodeTail tail(job, row, whole);
      add_32(tail.codes, tail.q, sums);
    }
    const __m256 eight =
        _mm256_add_ps(_mm256_add_ps(sums[0], sums[2]), _mm256_add_ps(sums[1], sums[3]));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    score = _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two))) * code_scale(row, width);
    row += stride;
  }
}

SUBBIT_AVX2 void narrow_vector(std::span<const float> in, Half* out) {
  size_t i = 0;
  for (; i + 8 <= in.size(); i += 8) {
    const __m128i bits = _mm256_cvtps_ph(_mm256_loadu_ps(in.data() + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), bits);
  }
  narrow_portable(in.subspan(i), out + i);
}

#define SUBBIT_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))

SUBBIT_AVX512 inline __m512 load16(const float* p) { return _mm512_loadu_ps(p); }

SUBBIT_AVX512 inline __m512 load16(const Half* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

SUBBIT_AVX512 inline __m512 load16(const int8_t* p) {
  const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes));
}

/// Columns [first, first + 16 * Vectors): their sums stay in registers over all positions.
template <int Vectors, typename Stored>
SUBBIT_AVX512 void sum_columns_avx512(const WeightedSum& job, int64_t first) {
  const int64_t stride = row_bytes(job);
  const auto* row = static_cast<const std::byte*>(job.values);
  __m512 sums[Vectors];
  for (auto& sum : sums) sum = _mm512_setzero_ps();
  for (const float weight : job.weights) {
    const __m512 factor = _mm512_set1_ps(weight);
    const auto* value = reinterpret_cast<const Stored*>(row) + first;
    for (int v = 0; v < Vectors; ++v)
      sums[v] = _mm512_add_ps(sums[v], _mm512_mul_ps(factor, load16(value + 16 * v)));
    row += stride;
  }
  for (int v = 0; v < Vectors; ++v) _mm512_storeu_ps(job.out.data() + first + 16 * v, sums[v]);
}

template <typename Stored>
void weighted_sum_avx512_typed(const WeightedSum& job) {
  const int64_t width = std::ssize(job.out);
  int64_t d = 0;
  for (; d + 128 <= width; d += 128) sum_columns_avx512<8, Stored>(job, d);
  for (; d + 64 <= width; d += 64) sum_columns_avx512<4, Stored>(job, d);
  for (; d + 16 <= width; d += 16) sum_columns_avx512<1, Stored>(job, d);
  weighted_sum_from(job, d);
}

void weighted_sum_avx512(const WeightedSum& job) {
  switch (job.type) {
    case KvType::kF32:
      return weighted_sum_avx512_typed<float>(job);
    case KvType::kF16:
      return weighted_sum_avx512_typed<Half>(job);
    case KvType::kI8:
      return weighted_sum_avx512_typed<int8_t>(job);
  }
}

SUBBIT_AVX512 void code_scores_avx512(const CodeScores& job) {
  const int64_t width = std::ssize(job.q);
  const int64_t whole = width / kDotLanes * kDotLanes;
  const int64_t stride = kv_row_bytes(KvType::kI8, width);
  const float* q = job.q.data();
  const std::byte* row = job.rows;
  for (float& score : job.scores) {
    const auto* codes = reinterpret_cast<const int8_t*>(row);
    __m512 low = _mm512_setzero_ps();   // lanes 0..15 of 32
    __m512 high = _mm512_setzero_ps();  // lanes 16..31
    for (int64_t k = 0; k < whole; k += kDotLanes) {
      low = _mm512_add_ps(low, _mm512_mul_ps(load16(codes + k), _mm512_loadu_ps(q + k)));
      high =
          _mm512_add_ps(high, _mm512_mul_ps(load16(codes + k + 16), _mm512_loadu_ps(q + k + 16)));
    }
    if (whole < width) {
      const CodeTail tail(job, row, whole);
      low = _mm512_add_ps(low, _mm512_mul_ps(load16(tail.codes), _mm512_loadu_ps(tail.q)));
      high =
          _mm512_add_ps(high, _mm512_mul_ps(load16(tail.codes + 16), _mm512_loadu_ps(tail.q + 16)));
    }
    const __m512 sixteen = _mm512_add_ps(low, high);
    const __m256 eight =
        _mm256_add_ps(_mm512_castps512_ps256(sixteen), _mm512_extractf32x8_ps(sixteen, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    score = _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two))) * code_scale(row, width);
    row += stride;
  }
}

#elif defined(__aarch64__)

inline float32x4_t load4(const float* p) { return vld1q_f32(p); }

/// Reads four bytes, no more: rows end where another's memory may begin.
inline float32x4_t load4(const int8_t* p) {
  int32_t bytes;
  std::memcpy(&bytes, p, sizeof(bytes));
  const int8x8_t codes = vreinterpret_s8_s32(vdup_n_s32(bytes));
  return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(codes))));
}

inline float32x4_t load4(const Half* p) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&p->bits)));
}

/// Columns [first, first + 4 * Vectors): their sums stay in registers over all positions.
template <int Vectors, typename Stored>
void sum_columns_neon(const WeightedSum& job, int64_t first) {
  const int64_t stride = row_bytes(job);
  const auto* row = static_cast<const std::byte*>(job.values);
  float32x4_t sums[Vectors];
  for (auto& sum : sums) sum = vdupq_n_f32(0.0f);
  for (const float weight : job.weights) {
    const float32x4_t factor = vdupq_n_f32(weight);
    const auto* value = reinterpret_cast<const Stored*>(row) + first;
    for (int v = 0; v < Vectors; ++v)
      sums[v] = vaddq_f32(sums[v], vmulq_f32(factor, load4(value + 4 * v)));
    row += stride;
  }
  for (int v = 0; v < Vectors; ++v) vst1q_f32(job.out.data() + first + 4 * v, sums[v]);
}

template <typename Stored>
void weighted_sum_typed(const WeightedSum& job) {
  const int64_t width = std::ssize(job.out);
  int64_t d = 0;
  for (; d + 64 <= width; d += 64) sum_columns_neon<16, Stored>(job, d);
  for (; d + 16 <= width; d += 16) sum_columns_neon<4, Stored>(job, d);
  for (; d + 4 <= width; d += 4) sum_columns_neon<1, Stored>(job, d);
  weighted_sum_from(job, d);
}

inline void add_32(const int8_t* codes, const float* q, float32x4_t sums[8]) {
  for (int v = 0; v < 8; ++v)
    sums[v] = vaddq_f32(sums[v], vmulq_f32(load4(codes + 4 * v), vld1q_f32(q + 4 * v)));
}

void code_scores_vector(const CodeScores& job) {
  const int64_t width = std::ssize(job.q);
  const int64_t whole = width / kDotLanes * kDotLanes;
  const int64_t stride = kv_row_bytes(KvType::kI8, width);
  const std::byte* row = job.rows;
  for (float& score : job.scores) {
    float32x4_t sums[8];
    for (auto& sum : sums) sum = vdupq_n_f32(0.0f);
    const auto* codes = reinterpret_cast<const int8_t*>(row);
    for (int64_t k = 0; k < whole; k += kDotLanes) add_32(codes + k, job.q.data() + k, sums);
    if (whole < width) {
      const CodeTail tail(job, row, whole);
      add_32(tail.codes, tail.q, sums);
    }
    for (int half = 4; half > 0; half /= 2)
      for (int v = 0; v < half; ++v) sums[v] = vaddq_f32(sums[v], sums[v + half]);
    const float32x2_t two = vadd_f32(vget_low_f32(sums[0]), vget_high_f32(sums[0]));
    score = (vget_lane_f32(two, 0) + vget_lane_f32(two, 1)) * code_scale(row, width);
    row += stride;
  }
}

void narrow_vector(std::span<const float> in, Half* out) {
  size_t i = 0;
  for (; i + 4 <= in.size(); i += 4)
    vst1_u16(&out[i].bits, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(in.data() + i))));
  narrow_portable(in.subspan(i), out + i);
}

#endif

#if defined(__x86_64__) || defined(__aarch64__)

void weighted_sum_vector(const WeightedSum& job) {
  switch (job.type) {
    case KvType::kF32:
      return weighted_sum_typed<float>(job);
    case KvType::kF16:
      return weighted_sum_typed<Half>(job);
    case KvType::kI8:
      return weighted_sum_typed<int8_t>(job);
  }
}

#endif

}  // namespace

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
  static constexpr AttentionKernels kernels[] = {
#if defined(__x86_64__)
      {"avx512", weighted_sum_avx512, code_scores_avx512, narrow_vector},
      {"avx2", weighted_sum_vector, code_scores_vector, narrow_vector},
#elif defined(__aarch64__)
      {"neon", weighted_sum_vector, code_scores_vector, narrow_vector},
#endif
      {"portable", weighted_sum_portable, code_scores_portable, narrow_portable}};
#if defined(__x86_64__)
  return std::span(kernels).subspan(has_avx512() ? 0 : has_avx2() ? 1 : 2);
#else
  return kernels;
#endif
}

}  // namespace subbit
