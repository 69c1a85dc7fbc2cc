// The micro-kernel for ARM: 8 x 12 tiles, 24 of 32 registers hold sums. The left panel's rows are
// loaded four at a time and multiplied by lane.
#if defined(__aarch64__)

#include <arm_neon.h>
#include <utility>

#include "linalg/gemm_kernel.h"

namespace subbit {
namespace {

/// sum + right * left[lane]; the lane must be a constant to the intrinsic.
template <int Lane>
inline __attribute__((always_inline)) float32x4_t multiply_add(float32x4_t sum, float32x4_t right,
                                                               float32x4_t left) {
  return vfmaq_laneq_f32(sum, right, left, Lane);
}

inline __attribute__((always_inline)) float32x4_t multiply_add(int lane, float32x4_t sum,
                                                               float32x4_t right,
                                                               float32x4_t left) {
  switch (lane) {
    case 0:
      return multiply_add<0>(sum, right, left);
    case 1:
      return multiply_add<1>(sum, right, left);
    case 2:
      return multiply_add<2>(sum, right, left);
    default:
      return multiply_add<3>(sum, right, left);
  }
}

template <int Rows, int Vectors>
void run_tile(const GemmTile& tile) {
  constexpr int kQuads = (Rows + 3) / 4;
  float32x4_t sums[Rows][Vectors];
  SUBBIT_UNROLL
  for (int r = 0; r < Rows; ++r) {
    SUBBIT_UNROLL
    for (int v = 0; v < Vectors; ++v) sums[r][v] = vdupq_n_f32(0.0f);
  }
  const float* a = tile.a;  // [depth, 4 * kQuads]
  const float* b = tile.b;  // [depth, Vectors * 4]
  for (int64_t k = tile.depth; k > 0; --k, a += 4 * kQuads, b += Vectors * 4) {
    float32x4_t left[kQuads];
    SUBBIT_UNROLL
    for (int q = 0; q < kQuads; ++q) left[q] = vld1q_f32(a + 4 * q);
    float32x4_t right[Vectors];
    SUBBIT_UNROLL
    for (int v = 0; v < Vectors; ++v) right[v] = vld1q_f32(b + 4 * v);
    SUBBIT_UNROLL
    for (int r = 0; r < Rows; ++r) {
      SUBBIT_UNROLL
      for (int v = 0; v < Vectors; ++v)
        sums[r][v] = multiply_add(r % 4, sums[r][v], right[v], left[r / 4]);
    }
  }
  SUBBIT_UNROLL
  for (int r = 0; r < Rows; ++r) {
    SUBBIT_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      float* c = tile.c + r * tile.c_stride + 4 * v;
      float32x4_t sum = sums[r][v];
      if (tile.accumulate == Accumulate::kAdd) sum = vaddq_f32(vld1q_f32(c), sum);
      vst1q_f32(c, sum);
    }
  }
}

template <int... Row>
GemmKernel make_kernel(std::integer_sequence<int, Row...>) {
  GemmKernel kernel{"neon", sizeof...(Row), 3, 4, GemmKernel::Cell::kFloat, gemm_pack, {}};
  ((kernel.run[Row][0] = run_tile<Row + 1, 1>, kernel.run[Row][1] = run_tile<Row + 1, 2>,
    kernel.run[Row][2] = run_tile<Row + 1, 3>),
   ...);
  return kernel;
}

}  // namespace

const GemmKernel& gemm_kernel_neon() {
  static const GemmKernel kernel = make_kernel(std::make_integer_sequence<int, 8>());
  return kernel;
}

}  // namespace subbit

#endif  // __aarch64__
