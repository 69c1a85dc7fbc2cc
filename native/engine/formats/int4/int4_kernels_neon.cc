// The NEON row kernel of int4: nibbles less 8 are signed bytes, which the dot product takes as they
// are.
#include "formats/int4/int4_kernels.h"

#if defined(__aarch64__)

#include "base/processor.h"
#include "formats/groups/group_kernels_neon.h"
#include "formats/signs/layout.h"

namespace subbit {
namespace {

inline int8x16_t weights_of(uint8x16_t nibbles) {
  return vsubq_s8(vreinterpretq_s8_u8(nibbles), vdupq_n_s8(8));
}

/// 32 weights times 32 codes, times 2^shift.
template <bool kDot>
inline int32x4_t multiply_32(uint8x16_t first, uint8x16_t second, const int8_t* codes,
                             uint8_t shift) {
  int32x4_t sum = vdupq_n_s32(0);
  sum = dot_bytes<kDot>(sum, weights_of(first), vld1q_s8(codes));
  sum = dot_bytes<kDot>(sum, weights_of(second), vld1q_s8(codes + 16));
  return vshlq_s32(sum, vdupq_n_s32(shift));
}

template <bool kDot>
float dot(const GroupRow& row) {
  const uint8x16_t mask = vdupq_n_u8(15);
  float32x4_t y = vdupq_n_f32(0.0f);
  for (int64_t g = 0; g < row.groups; ++g) {
    const uint8_t* unit = row.units + g * row.group / 2;
    const uint8x16_t v = vld1q_u8(unit);
    int32x4_t sum;
    if (row.group == 64) {
      const uint8x16_t w = vld1q_u8(unit + 16);
      const int8_t* codes = row.codes + 2 * kChunk * g;
      sum = vaddq_s32(
          multiply_32<kDot>(vandq_u8(v, mask), vandq_u8(w, mask), codes, row.shifts[2 * g]),
          multiply_32<kDot>(vshrq_n_u8(v, 4), vshrq_n_u8(w, 4), codes + kChunk,
                            row.shifts[2 * g + 1]));
    } else {
      sum = multiply_32<kDot>(vandq_u8(v, mask), vshrq_n_u8(v, 4), row.codes + kChunk * g,
                              row.shifts[g]);
    }
    y = add_scaled(y, sum, scale_of(row.scales[g]));
  }
  return vaddvq_f32(y);
}

}  // namespace

const GroupKernel kInt4NeonDot = {"neon_dot", [](int64_t) { return has_arm_dot(); }, dot<true>};
const GroupKernel kInt4Neon = {"neon", [](int64_t) { return true; }, dot<false>};

}  // namespace subbit

#endif  // __aarch64__
