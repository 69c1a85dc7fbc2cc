// The AVX2 row kernel of int3.
#include "formats/int3/int3_kernels.h"

#if defined(__x86_64__)

#include <cstring>

#include "base/processor.h"
#include "formats/groups/group_kernels_x86.h"
#include "formats/signs/layout.h"

namespace subbit {
namespace {

/// 32 bits as 32 bytes of 4 or 0, the lowest bit first.
SUBBIT_AVX2 inline __m256i spread_bits(const uint8_t* bits) {
  int32_t word;
  std::memcpy(&word, bits, sizeof word);
  const __m256i bytes = _mm256_shuffle_epi8(
      _mm256_set1_epi32(word), _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2,
                                                2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3));
  const __m256i one_each = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201ull));
  const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, one_each), one_each);
  return _mm256_and_si256(set, _mm256_set1_epi8(4));
}

/// The weights of 32 columns whose low bits are `low` and whose high ones lie at `high`.
SUBBIT_AVX2 inline __m256i weights_of(__m256i low, const uint8_t* high) {
  return odd_levels(_mm256_or_si256(low, spread_bits(high)), 7);
}

SUBBIT_AVX2 float dot(const GroupRow& row) {
  __m256 y = _mm256_setzero_ps();
  float scales[8];
  for (int64_t g = 0; g < row.groups; ++g) {
    if (g % 8 == 0) load_scales(row.scales, g, row.groups, scales);
    const uint8_t* unit = row.units + g * row.group * 3 / 8;
    __m256i sum;
    if (row.group == 64) {
      const auto [first, second] = two_bits_64(unit);
      sum = _mm256_add_epi32(
          multiply_32(weights_of(first, unit + 16), row.codes + 64 * g, row.shifts[2 * g]),
          multiply_32(weights_of(second, unit + 20), row.codes + 64 * g + 32,
                      row.shifts[2 * g + 1]));
    } else {
      sum = multiply_32(weights_of(two_bits_32(unit), unit + 8), row.codes + 32 * g, row.shifts[g]);
    }
    y = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_set1_ps(scales[g % 8]), y);
  }
  return sum_lanes(y);
}

}  // namespace

const GroupKernel kInt3Avx2 = {"avx2", [](int64_t) { return has_avx2(); }, dot};

}  // namespace subbit

#endif  // __x86_64__
