// The dot kernels (AVX-512, AVX2, NEON, portable) and the loop that shares rows out.
#include "linalg/dense_dot.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/half.h"
#include "base/processor.h"
#include "linalg/dense_dot_kernel.h"
#include "linalg/widen.h"

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

using Job = DenseDotKernel::Job;
using Type = GemmOperand::Type;

// A piece below about 5 us is not worth handing to another thread.
constexpr int64_t kPieceBytes = 1 << 16;

/// Up to Lanes columns from `first` on as floats, zero-padded: the end of a row.
template <int Lanes>
struct Tail {
  float w[Lanes] = {};
  float x[Lanes] = {};

  Tail(const Job& job, const std::byte* stored, int64_t first) {
    const int64_t count = std::min<int64_t>(Lanes, std::ssize(job.x) - first);
    if (count <= 0) return;
    widen(job.type, stored + first * element_bytes(job.type), count, w);
    std::copy_n(job.x.data() + first, count, x);
  }
};

int64_t whole_steps(const Job& job) { return std::ssize(job.x) / kDotLanes * kDotLanes; }

void run_portable(const Job& job) {
  const int64_t whole = whole_steps(job);
  for (int64_t i = 0; i < job.rows; ++i) {
    const auto* stored = static_cast<const std::byte*>(job.w) + i * job.row_bytes;
    float sums[kDotLanes] = {};
    float w[kDotLanes];
    for (int64_t k = 0; k < whole; k += kDotLanes) {
      widen(job.type, stored + k * element_bytes(job.type), kDotLanes, w);
      for (int64_t l = 0; l < kDotLanes; ++l) sums[l] += w[l] * job.x[static_cast<size_t>(k + l)];
    }
    if (whole < std::ssize(job.x)) {
      const Tail<kDotLanes> tail(job, stored, whole);
      for (int64_t l = 0; l < kDotLanes; ++l) sums[l] += tail.w[l] * tail.x[l];
    }
    for (int64_t half = kDotLanes / 2; half > 0; half /= 2)
      for (int64_t l = 0; l < half; ++l) sums[l] += sums[l + half];
    job.y[i] = sums[0];
  }
}

#if defined(__x86_64__)

#define SUBBIT_AVX2 __attribute__((target("avx2,f16c")))

template <Type kType>
SUBBIT_AVX2 inline __m256 load8(const std::byte* stored) {
  if constexpr (kType == Type::kF32) {
    return _mm256_loadu_ps(reinterpret_cast<const float*>(stored));
  } else {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(stored));
    if constexpr (kType == Type::kF16) return _mm256_cvtph_ps(bits);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
}

SUBBIT_AVX2 inline float fold(const __m256 sums[4]) {
  const __m256 low = _mm256_add_ps(sums[0], sums[2]);   // lanes 0..7 of 16
  const __m256 high = _mm256_add_ps(sums[1], sums[3]);  // lanes 8..15
  const __m256 eight = _mm256_add_ps(low, high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

template <Type kType>
SUBBIT_AVX2 void run_avx2_typed(const Job& job) {
  constexpr int64_t kBytes = kType == Type::kF32 ? 4 : 2;
  const int64_t whole = whole_steps(job);
  const float* x = job.x.data();
  for (int64_t i = 0; i < job.rows; ++i) {
    const auto* stored = static_cast<const std::byte*>(job.w) + i * job.row_bytes;
    __m256 sums[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
                      _mm256_setzero_ps()};
    for (int64_t k = 0; k < whole; k += kDotLanes) {
      for (int v = 0; v < 4; ++v) {
        const __m256 w = load8<kType>(stored + (k + 8 * v) * kBytes);
        sums[v] = _mm256_add_ps(sums[v], _mm256_mul_ps(w, _mm256_loadu_ps(x + k + 8 * v)));
      }
    }
    for (int v = 0; v < 4 && whole < std::ssize(job.x); ++v) {
      const int64_t k = whole + 8 * v;
      __m256 product;
      if (k + 8 <= std::ssize(job.x)) {
        product = _mm256_mul_ps(load8<kType>(stored + k * kBytes), _mm256_loadu_ps(x + k));
      } else {
        const Tail<8> tail(job, stored, k);
        product = _mm256_mul_ps(_mm256_loadu_ps(tail.w), _mm256_loadu_ps(tail.x));
      }
      sums[v] = _mm256_add_ps(sums[v], product);
    }
    job.y[i] = fold(sums);
  }
}

void run_avx2(const Job& job) {
  switch (job.type) {
    case Type::kF32:
      return run_avx2_typed<Type::kF32>(job);
    case Type::kF16:
      return run_avx2_typed<Type::kF16>(job);
    case Type::kBF16:
      return run_avx2_typed<Type::kBF16>(job);
  }
}

#define SUBBIT_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))

template <Type kType>
SUBBIT_AVX512 inline __m512 load16(const std::byte* stored) {
  if constexpr (kType == Type::kF32) {
    return _mm512_loadu_ps(reinterpret_cast<const float*>(stored));
  } else {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(stored));
    if constexpr (kType == Type::kF16) return _mm512_cvtph_ps(bits);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
}

template <Type kType>
SUBBIT_AVX512 void run_avx512_typed(const Job& job) {
  constexpr int64_t kBytes = kType == Type::kF32 ? 4 : 2;
  const int64_t whole = whole_steps(job);
  const float* x = job.x.data();
  for (int64_t i = 0; i < job.rows; ++i) {
    const auto* stored = static_cast<const std::byte*>(job.w) + i * job.row_bytes;
    __m512 low = _mm512_setzero_ps();   // lanes 0..15 of 32
    __m512 high = _mm512_setzero_ps();  // lanes 16..31
    for (int64_t k = 0; k < whole; k += kDotLanes) {
      const __m512 w = load16<kType>(stored + k * kBytes);
      const __m512 other = load16<kType>(stored + (k + 16) * kBytes);
      low = _mm512_add_ps(low, _mm512_mul_ps(w, _mm512_loadu_ps(x + k)));
      high = _mm512_add_ps(high, _mm512_mul_ps(other, _mm512_loadu_ps(x + k + 16)));
    }
    if (whole < std::ssize(job.x)) {
      const Tail<kDotLanes> tail(job, stored, whole);
      low = _mm512_add_ps(low, _mm512_mul_ps(_mm512_loadu_ps(tail.w), _mm512_loadu_ps(tail.x)));
      high = _mm512_add_ps(
          high, _mm512_mul_ps(_mm512_loadu_ps(tail.w + 16), _mm512_loadu_ps(tail.x + 16)));
    }
    const __m512 sixteen = _mm512_add_ps(low, high);
    const __m256 eight =
        _mm256_add_ps(_mm512_castps512_ps256(sixteen), _mm512_extractf32x8_ps(sixteen, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    job.y[i] = _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
}

void run_avx512(const Job& job) {
  switch (job.type) {
    case Type::kF32:
      return run_avx512_typed<Type::kF32>(job);
    case Type::kF16:
      return run_avx512_typed<Type::kF16>(job);
    case Type::kBF16:
      return run_avx512_typed<Type::kBF16>(job);
  }
}

#elif defined(__aarch64__)

template <Type kType>
inline float32x4_t load4(const std::byte* stored) {
  if constexpr (kType == Type::kF32) {
    return vld1q_f32(reinterpret_cast<const float*>(stored));
  } else {
    const uint16x4_t bits = vld1_u16(reinterpret_cast<const uint16_t*>(stored));
    if constexpr (kType == Type::kF16) return vcvt_f32_f16(vreinterpret_f16_u16(bits));
    return vreinterpretq_f32_u32(vshll_n_u16(bits, 16));
  }
}

template <Type kType>
void run_neon_typed(const Job& job) {
  constexpr int64_t kBytes = kType == Type::kF32 ? 4 : 2;
  const int64_t whole = whole_steps(job);
  const float* x = job.x.data();
  for (int64_t i = 0; i < job.rows; ++i) {
    const auto* stored = static_cast<const std::byte*>(job.w) + i * job.row_bytes;
    float32x4_t sums[8];
    for (auto& sum : sums) sum = vdupq_n_f32(0.0f);
    for (int64_t k = 0; k < whole; k += kDotLanes) {
      for (int v = 0; v < 8; ++v) {
        const float32x4_t w = load4<kType>(stored + (k + 4 * v) * kBytes);
        sums[v] = vaddq_f32(sums[v], vmulq_f32(w, vld1q_f32(x + k + 4 * v)));
      }
    }
    for (int v = 0; v < 8 && whole < std::ssize(job.x); ++v) {
      const int64_t k = whole + 4 * v;
      float32x4_t product;
      if (k + 4 <= std::ssize(job.x)) {
        product = vmulq_f32(load4<kType>(stored + k * kBytes), vld1q_f32(x + k));
      } else {
        const Tail<4> tail(job, stored, k);
        product = vmulq_f32(vld1q_f32(tail.w), vld1q_f32(tail.x));
      }
      sums[v] = vaddq_f32(sums[v], product);
    }
    for (int half = 4; half > 0; half /= 2)
      for (int v = 0; v < half; ++v) sums[v] = vaddq_f32(sums[v], sums[v + half]);
    const float32x2_t two = vadd_f32(vget_low_f32(sums[0]), vget_high_f32(sums[0]));
    job.y[i] = vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
  }
}

void run_neon(const Job& job) {
  switch (job.type) {
    case Type::kF32:
      return run_neon_typed<Type::kF32>(job);
    case Type::kF16:
      return run_neon_typed<Type::kF16>(job);
    case Type::kBF16:
      return run_neon_typed<Type::kBF16>(job);
  }
}

#endif

}  // namespace

std::span<const DenseDotKernel> dense_dot_kernels() {
#if defined(__x86_64__)
  static constexpr DenseDotKernel kernels[] = {
      {"avx512", run_avx512}, {"avx2", run_avx2}, {"portable", run_portable}};
  return std::span(kernels).subspan(has_avx512() ? 0 : has_avx2() ? 1 : 2);
#elif defined(__aarch64__)
  static constexpr DenseDotKernel kernels[] = {{"neon", run_neon}, {"portable", run_portable}};
  return kernels;
#else
  static constexpr DenseDotKernel kernels[] = {{"portable", run_portable}};
  return kernels;
#endif
}

void dense_dot(const GemmOperand& w, std::span<const float> x, std::span<float> y,
               ThreadPool& pool) {
  CHECK(w.transpose == Transpose::kNo);
  CHECK(w.rows == std::ssize(y) && w.cols == std::ssize(x));
  CHECK(w.stride >= w.cols);
  const DenseDotKernel& kernel = dense_dot_kernels().front();
  const int64_t row_bytes = w.stride * element_bytes(w.type);
  const int64_t grain =
      std::max<int64_t>(1, kPieceBytes / std::max<int64_t>(w.cols * element_bytes(w.type), 1));
  pool.parallel_for(w.rows, grain, [&](Range range) {
    const auto* first = static_cast<const std::byte*>(w.data) + range.begin * row_bytes;
    kernel.run({w.type, first, row_bytes, range.end - range.begin, x, y.data() + range.begin});
  });
}

}  // namespace subbit
