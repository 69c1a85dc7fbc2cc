// What the AVX2 kernels of group formats share.
#pragma once

#if defined(__x86_64__)

#include <cstdint>
#include <immintrin.h>

#include "base/half.h"

namespace subbit {

#define SUBBIT_AVX2 __attribute__((target("avx2,fma,f16c")))

/// Scales [first, first + 8) as floats; `groups` in all.
SUBBIT_AVX2 inline void load_scales(const Half* scales, int64_t first, int64_t groups,
                                    float out[8]) {
  if (first + 8 <= groups) {
    const auto* from = reinterpret_cast<const __m128i*>(scales + first);
    _mm256_storeu_ps(out, _mm256_cvtph_ps(_mm_loadu_si128(from)));
    return;
  }
  for (int64_t g = first; g < groups; ++g) out[g - first] = to_float(scales[g]);
}

SUBBIT_AVX2 inline float sum_lanes(__m256 y) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

/// 32 weights times 32 codes: eight int32 lanes, each the exact sum of four products times 2^shift.
/// Pairs of products stay within 2 * 127 * 127 < 2^15, so the saturating multiply never saturates.
SUBBIT_AVX2 inline __m256i multiply_32(__m256i weights, const int8_t* codes, uint8_t shift) {
  const __m256i q = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
  const __m256i pairs =
      _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(q, weights));
  return _mm256_madd_epi16(pairs, _mm256_set1_epi16(static_cast<int16_t>(1 << shift)));
}

/// The two bits a column of int2, and of int3's low ones, of a group of 64: columns 0..31, 32..63.
struct TwoBits64 {
  __m256i first;
  __m256i second;
};
SUBBIT_AVX2 inline TwoBits64 two_bits_64(const uint8_t* unit) {
  const __m256i mask = _mm256_set1_epi8(3);
  const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(unit));
  return {_mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(v, 2), v), mask),
          _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(v, 6), _mm_srli_epi16(v, 4)), mask)};
}
/// The same of a group of 32.
SUBBIT_AVX2 inline __m256i two_bits_32(const uint8_t* unit) {
  const __m128i v = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(unit));
  const __m128i low = _mm_unpacklo_epi64(v, _mm_srli_epi16(v, 2));
  const __m128i high = _mm_unpacklo_epi64(_mm_srli_epi16(v, 4), _mm_srli_epi16(v, 6));
  return _mm256_and_si256(_mm256_set_m128i(high, low), _mm256_set1_epi8(3));
}

/// Levels on both sides of zero and none at it: 2 c - most, where codes lie in [0, most].
SUBBIT_AVX2 inline __m256i odd_levels(__m256i codes, int8_t most) {
  return _mm256_sub_epi8(_mm256_add_epi8(codes, codes), _mm256_set1_epi8(most));
}

}  // namespace subbit

#endif  // __x86_64__
