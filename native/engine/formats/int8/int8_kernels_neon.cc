// The NEON row kernel of int8.
#include "formats/int8/int8_kernels.h"

#if defined(__aarch64__)

#include "base/processor.h"
#include "formats/groups/group_kernels_neon.h"
#include "formats/signs/layout.h"

namespace subbit {
namespace {

template <bool kDot>
float dot(const GroupRow& row) {
  const int64_t chunks_in_group = row.group / kChunk;
  float32x4_t y = vdupq_n_f32(0.0f);
  for (int64_t g = 0; g < row.groups; ++g) {
    const float scale = scale_of(row.scales[g]);
    for (int64_t c = g * chunks_in_group; c < (g + 1) * chunks_in_group; ++c) {
      const auto* w = reinterpret_cast<const int8_t*>(row.units + c * kChunk);
      const int8_t* q = row.codes + c * kChunk;
      int32x4_t sum = vdupq_n_s32(0);
      sum = dot_bytes<kDot>(sum, vld1q_s8(w), vld1q_s8(q));
      sum = dot_bytes<kDot>(sum, vld1q_s8(w + 16), vld1q_s8(q + 16));
      y = add_scaled(y, vshlq_s32(sum, vdupq_n_s32(row.shifts[c])), scale);
    }
  }
  return vaddvq_f32(y);
}

}  // namespace

const GroupKernel kInt8NeonDot = {"neon_dot", [](int64_t) { return has_arm_dot(); }, dot<true>};
const GroupKernel kInt8Neon = {"neon", [](int64_t) { return true; }, dot<false>};

}  // namespace subbit

#endif  // __aarch64__
