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

}  // namespace subbit

#endif  // __x86_64__
