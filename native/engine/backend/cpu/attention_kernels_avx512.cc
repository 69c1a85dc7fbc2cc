// Attention's loops in AVX-512: attention_tile.h with vectors of 16.
#include "backend/cpu/attention_kernels.h"

#if defined(__x86_64__)

#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 takes its own headers' undefined registers for a mistake (its bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

namespace subbit {
namespace {

#define SUBBIT_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))

struct Vector {
  using Floats = __m512;
  static constexpr int kLanes = 16;
  static constexpr int kQueries = 4;
  static constexpr int kSumQueries = 4;
  static constexpr int kSumVectors = 4;

  SUBBIT_TARGET static Floats zero() { return _mm512_setzero_ps(); }
  SUBBIT_TARGET static Floats broadcast(float x) { return _mm512_set1_ps(x); }
  SUBBIT_TARGET static Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  SUBBIT_TARGET static Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }

  SUBBIT_TARGET static Floats load(const float* p) { return _mm512_loadu_ps(p); }
  SUBBIT_TARGET static Floats load(const Half* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  SUBBIT_TARGET static Floats load(const int8_t* p) {
    const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes));
  }

  SUBBIT_TARGET static __mmask16 first(int64_t count) {
    return static_cast<__mmask16>((1u << count) - 1);
  }
  SUBBIT_TARGET static Floats load_some(const float* p, int64_t count) {
    return _mm512_maskz_loadu_ps(first(count), p);
  }
  SUBBIT_TARGET static Floats load_some(const Half* p, int64_t count) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(count), p));
  }
  SUBBIT_TARGET static Floats load_some(const int8_t* p, int64_t count) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(first(count), p)));
  }
  SUBBIT_TARGET static void store(float* p, Floats v) { _mm512_storeu_ps(p, v); }
  SUBBIT_TARGET static void store_some(float* p, Floats v, int64_t count) {
    _mm512_mask_storeu_ps(p, first(count), v);
  }

  /// Lanes l + (l + 8) of two vectors: [a, b], 8 each.
  SUBBIT_TARGET static Floats halve_16(Floats a, Floats b) {
    return add(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
  }
  /// Of [a, b] and [c, d]: [a, b, c, d], 4 each.
  SUBBIT_TARGET static Floats halve_8(Floats ab, Floats cd) {
    return add(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xDD));
  }
  /// Of [a, b, c, d] and [e, f, g, h]: pairs a e, b f, c g, d h, 2 each.
  SUBBIT_TARGET static Floats halve_4(Floats x, Floats y) {
    return add(_mm512_shuffle_ps(x, y, 0x44), _mm512_shuffle_ps(x, y, 0xEE));
  }
  SUBBIT_TARGET static Floats halve_2(Floats x, Floats y) {
    return add(_mm512_shuffle_ps(x, y, 0x88), _mm512_shuffle_ps(x, y, 0xDD));
  }
  SUBBIT_TARGET static Floats fold(const Floats (&v)[kLanes]) {
    Floats fours[4];
    for (int e = 0; e < 4; ++e)
      fours[e] = halve_8(halve_16(v[e], v[4 + e]), halve_16(v[8 + e], v[12 + e]));
    return halve_2(halve_4(fours[0], fours[1]), halve_4(fours[2], fours[3]));
  }
};

SUBBIT_TARGET void narrow(std::span<const float> in, Half* out) {
  size_t i = 0;
  for (; i + 16 <= in.size(); i += 16) {
    const __m256i bits = _mm512_cvtps_ph(_mm512_loadu_ps(in.data() + i), _MM_FROUND_TO_NEAREST_INT);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), bits);
  }
  narrow_portable(in.subspan(i), out + i);
}

}  // namespace
}  // namespace subbit

#include "backend/cpu/attention_tile.h"

namespace subbit {

const AttentionKernels kAvx512AttentionKernels = {"avx512", scores_in_vectors,
                                                  weighted_sum_in_vectors, narrow};

}  // namespace subbit

#endif  // __x86_64__
