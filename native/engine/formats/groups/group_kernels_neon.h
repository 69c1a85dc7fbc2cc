// What the NEON kernels of group formats share.
#pragma once

#if defined(__aarch64__)

#include <arm_neon.h>

#include "base/half.h"
#include "formats/signs/neon_dot.h"

namespace subbit {

/// sum + the products of a and b, |each| <= 127, four neighbours to a lane.
template <bool kDot>
inline int32x4_t dot_bytes(int32x4_t sum, int8x16_t a, int8x16_t b) {
  if constexpr (kDot) return dot_s8(sum, a, b);
  const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)));
  const int32x4_t high = vpaddlq_s16(vmull_s8(vget_high_s8(a), vget_high_s8(b)));
  return vaddq_s32(sum, vpaddq_s32(low, high));
}

inline float scale_of(Half scale) {
  return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(scale.bits))), 0);
}

/// y + float(chunk sums) * scale.
inline float32x4_t add_scaled(float32x4_t y, int32x4_t sum, float scale) {
  return vfmaq_n_f32(y, vcvtq_f32_s32(sum), scale);
}

}  // namespace subbit

#endif  // __aarch64__
