// The AVX2 row kernel of int2.
#include "formats/int2/int2_kernels.h"

#if defined(__x86_64__)

#include "base/processor.h"
#include "formats/groups/group_kernels_x86.h"
#include "formats/signs/layout.h"

namespace subbit {
namespace {

SUBBIT_AVX2 float dot(const GroupRow& row) {
  __m256 y = _mm256_setzero_ps();
  float scales[8];
  for (int64_t g = 0; g < row.groups; ++g) {
    if (g % 8 == 0) load_scales(row.scales, g, row.groups, scales);
    const uint8_t* unit = row.units + g * row.group / 4;
    __m256i sum;
    if (row.group == 64) {
      const auto [first, second] = two_bits_64(unit);
      sum = _mm256_add_epi32(
          multiply_32(odd_levels(first, 3), row.codes + 64 * g, row.shifts[2 * g]),
          multiply_32(odd_levels(second, 3), row.codes + 64 * g + 32, row.shifts[2 * g + 1]));
    } else {
      sum = multiply_32(odd_levels(two_bits_32(unit), 3), row.codes + 32 * g, row.shifts[g]);
    }
    y = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_set1_ps(scales[g % 8]), y);
  }
  return sum_lanes(y);
}

}  // namespace

const GroupKernel kInt2Avx2 = {"avx2", [](int64_t) { return has_avx2(); }, dot};

}  // namespace subbit

#endif  // __x86_64__
