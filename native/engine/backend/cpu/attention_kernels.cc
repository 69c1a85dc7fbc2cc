// AVX2, NEON and portable loops of attention.
#include "backend/cpu/attention_kernels.h"

#include <algorithm>

#include "base/processor.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace subbit {
namespace {

using WeightedSum = AttentionKernels::WeightedSum;

float value_at(const WeightedSum& job, int64_t index) {
  return job.type == KvType::kF32 ? static_cast<const float*>(job.values)[index]
                                  : to_float(static_cast<const Half*>(job.values)[index]);
}

/// Columns [first, out.size()) one at a time.
void weighted_sum_from(const WeightedSum& job, int64_t first) {
  const int64_t width = std::ssize(job.out);
  for (int64_t d = first; d < width; ++d) {
    float sum = 0.0f;
    for (int64_t p = 0; p < std::ssize(job.weights); ++p)
      sum += job.weights[static_cast<size_t>(p)] * value_at(job, p * width + d);
    job.out[static_cast<size_t>(d)] = sum;
  }
}

void weighted_sum_portable(const WeightedSum& job) { weighted_sum_from(job, 0); }

void narrow_portable(std::span<const float> in, Half* out) {
  for (size_t i = 0; i < in.size(); ++i) out[i] = to_half(in[i]);
}

#if defined(__x86_64__)

#define SUBBIT_AVX2 __attribute__((target("avx2,f16c")))

SUBBIT_AVX2 inline __m256 load8(const float* p) { return _mm256_loadu_ps(p); }

SUBBIT_AVX2 inline __m256 load8(const Half* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

/// Columns [first, first + 8 * Vectors): their sums stay in registers over all positions.
template <int Vectors, typename Stored>
SUBBIT_AVX2 void sum_columns_avx2(const WeightedSum& job, int64_t first) {
  const int64_t width = std::ssize(job.out);
  const auto* value = static_cast<const Stored*>(job.values) + first;
  __m256 sums[Vectors];
  for (auto& sum : sums) sum = _mm256_setzero_ps();
  for (const float weight : job.weights) {
    const __m256 factor = _mm256_set1_ps(weight);
    for (int v = 0; v < Vectors; ++v)
      sums[v] = _mm256_add_ps(sums[v], _mm256_mul_ps(factor, load8(value + 8 * v)));
    value += width;
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

SUBBIT_AVX2 void narrow_vector(std::span<const float> in, Half* out) {
  size_t i = 0;
  for (; i + 8 <= in.size(); i += 8) {
    const __m128i bits = _mm256_cvtps_ph(_mm256_loadu_ps(in.data() + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), bits);
  }
  narrow_portable(in.subspan(i), out + i);
}

#elif defined(__aarch64__)

inline float32x4_t load4(const float* p) { return vld1q_f32(p); }

inline float32x4_t load4(const Half* p) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&p->bits)));
}

/// Columns [first, first + 4 * Vectors): their sums stay in registers over all positions.
template <int Vectors, typename Stored>
void sum_columns_neon(const WeightedSum& job, int64_t first) {
  const int64_t width = std::ssize(job.out);
  const auto* value = static_cast<const Stored*>(job.values) + first;
  float32x4_t sums[Vectors];
  for (auto& sum : sums) sum = vdupq_n_f32(0.0f);
  for (const float weight : job.weights) {
    const float32x4_t factor = vdupq_n_f32(weight);
    for (int v = 0; v < Vectors; ++v)
      sums[v] = vaddq_f32(sums[v], vmulq_f32(factor, load4(value + 4 * v)));
    value += width;
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

void narrow_vector(std::span<const float> in, Half* out) {
  size_t i = 0;
  for (; i + 4 <= in.size(); i += 4)
    vst1_u16(&out[i].bits, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(in.data() + i))));
  narrow_portable(in.subspan(i), out + i);
}

#endif

#if defined(__x86_64__) || defined(__aarch64__)

void weighted_sum_vector(const WeightedSum& job) {
  job.type == KvType::kF32 ? weighted_sum_typed<float>(job) : weighted_sum_typed<Half>(job);
}

#endif

}  // namespace

std::span<const AttentionKernels> attention_kernels() {
  static constexpr AttentionKernels kernels[] = {
#if defined(__x86_64__)
      {"avx2", weighted_sum_vector, narrow_vector},
#elif defined(__aarch64__)
      {"neon", weighted_sum_vector, narrow_vector},
#endif
      {"portable", weighted_sum_portable, narrow_portable}};
#if defined(__x86_64__)
  return std::span(kernels).subspan(has_avx2() ? 0 : 1);
#else
  return kernels;
#endif
}

}  // namespace subbit
