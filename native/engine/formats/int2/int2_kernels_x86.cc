// The AVX2 row kernel of int2.
#include "formats/int2/int2_kernels.h"

#if defined(__x86_64__)

#include "base/processor.h"
#include "formats/groups/group_kernels_x86.h"
#include "formats/signs/layout.h"

namespace subbit {
namespace {

/// 32 weights (2 c - 3) times 32 codes: eight int32 lanes, each the exact sum of four products
/// times 2^shift.
SUBBIT_AVX2 inline __m256i multiply_32(__m256i c, const int8_t* codes, uint8_t shift) {
  const __m256i w = _mm256_sub_epi8(_mm256_add_epi8(c, c), _mm256_set1_epi8(3));
  const __m256i q = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(q, w));
  return _mm256_madd_epi16(pairs, _mm256_set1_epi16(static_cast<int16_t>(1 << shift)));
}

SUBBIT_AVX2 float dot(const GroupRow& row) {
  const __m256i mask = _mm256_set1_epi8(3);
  __m256 y = _mm256_setzero_ps();
  float scales[8];
  for (int64_t g = 0; g < row.groups; ++g) {
    if (g % 8 == 0) load_scales(row.scales, g, row.groups, scales);
    const uint8_t* unit = row.units + g * row.group / 4;
    __m256i sum;
    if (row.group == 64) {
      const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(unit));
      const __m256i low = _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(v, 2), v), mask);
      const __m256i high =
          _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(v, 6), _mm_srli_epi16(v, 4)), mask);
      sum = _mm256_add_epi32(multiply_32(low, row.codes + 64 * g, row.shifts[2 * g]),
                             multiply_32(high, row.codes + 64 * g + 32, row.shifts[2 * g + 1]));
    } else {
      const __m128i v = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(unit));
      const __m128i low = _mm_unpacklo_epi64(v, _mm_srli_epi16(v, 2));
      const __m128i high = _mm_unpacklo_epi64(_mm_srli_epi16(v, 4), _mm_srli_epi16(v, 6));
      const __m256i c = _mm256_and_si256(_mm256_set_m128i(high, low), mask);
      sum = multiply_32(c, row.codes + 32 * g, row.shifts[g]);
    }
    y = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_set1_ps(scales[g % 8]), y);
  }
  return sum_lanes(y);
}

}  // namespace

const GroupKernel kInt2Avx2 = {"avx2", [](int64_t) { return has_avx2(); }, dot};

}  // namespace subbit

#endif  // __x86_64__
