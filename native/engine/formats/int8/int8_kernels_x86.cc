// The AVX2 row kernel of int8.
#include "formats/int8/int8_kernels.h"

#if defined(__x86_64__)

#include "base/processor.h"
#include "formats/groups/group_kernels_x86.h"
#include "formats/signs/layout.h"

namespace subbit {
namespace {

SUBBIT_AVX2 float dot(const GroupRow& row) {
  __m256 y = _mm256_setzero_ps();
  const int64_t chunks_in_group = row.group / kChunk;
  float scales[8];
  for (int64_t g = 0; g < row.groups; ++g) {
    if (g % 8 == 0) load_scales(row.scales, g, row.groups, scales);
    for (int64_t c = g * chunks_in_group; c < (g + 1) * chunks_in_group; ++c) {
      const auto* units = reinterpret_cast<const __m256i*>(row.units + c * kChunk);
      const __m256i w = _mm256_loadu_si256(units);
      const __m256 sum = _mm256_cvtepi32_ps(multiply_32(w, row.codes + c * kChunk, row.shifts[c]));
      y = _mm256_fmadd_ps(sum, _mm256_set1_ps(scales[g % 8]), y);
    }
  }
  return sum_lanes(y);
}

}  // namespace

const GroupKernel kInt8Avx2 = {"avx2", [](int64_t) { return has_avx2(); }, dot};

}  // namespace subbit

#endif  // __x86_64__
