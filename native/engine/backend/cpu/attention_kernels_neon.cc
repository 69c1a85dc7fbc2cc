// Attention's loops in NEON: attention_tile.h with vectors of 4.
#include "backend/cpu/attention_kernels.h"

#if defined(__aarch64__)

#include <algorithm>
#include <arm_neon.h>

namespace subbit {
namespace {

#define SUBBIT_TARGET

struct Vector {
  using Floats = float32x4_t;
  static constexpr int kLanes = 4;
  static constexpr int kQueries = 2;
  static constexpr int kSumQueries = 4;
  static constexpr int kSumVectors = 4;

  static Floats zero() { return vdupq_n_f32(0.0f); }
  static Floats broadcast(float x) { return vdupq_n_f32(x); }
  static Floats add(Floats a, Floats b) { return vaddq_f32(a, b); }
  static Floats fma(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }

  static Floats load(const float* p) { return vld1q_f32(p); }
  static Floats load(const Half* p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&p->bits)));
  }
  /// Reads four bytes, no more: rows end where another's memory may begin.
  static Floats load(const int8_t* p) {
    int32_t bytes;
    std::memcpy(&bytes, p, sizeof(bytes));
    const int8x8_t codes = vreinterpret_s8_s32(vdup_n_s32(bytes));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(codes))));
  }
  template <typename Stored>
  static Floats load_some(const Stored* p, int64_t count) {
    Stored values[kLanes] = {};
    std::copy_n(p, count, values);
    return load(values);
  }
  static void store(float* p, Floats v) { vst1q_f32(p, v); }
  static void store_some(float* p, Floats v, int64_t count) {
    float values[kLanes];
    store(values, v);
    std::copy_n(values, count, p);
  }

  /// Lanes l + (l + 2) of two vectors: [a, b], 2 each.
  static Floats halve_4(Floats a, Floats b) {
    return add(vcombine_f32(vget_low_f32(a), vget_low_f32(b)),
               vcombine_f32(vget_high_f32(a), vget_high_f32(b)));
  }
  static Floats fold(const Floats (&v)[kLanes]) {
    const Floats x = halve_4(v[0], v[1]);
    const Floats y = halve_4(v[2], v[3]);
    return add(vuzp1q_f32(x, y), vuzp2q_f32(x, y));
  }
};

void narrow(std::span<const float> in, Half* out) {
  size_t i = 0;
  for (; i + 4 <= in.size(); i += 4)
    vst1_u16(&out[i].bits, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(in.data() + i))));
  narrow_portable(in.subspan(i), out + i);
}

}  // namespace
}  // namespace subbit

#include "backend/cpu/attention_tile.h"

namespace subbit {

const AttentionKernels kNeonAttentionKernels = {"neon", scores_in_vectors, weighted_sum_in_vectors,
                                                narrow};

}  // namespace subbit

#endif  // __aarch64__
