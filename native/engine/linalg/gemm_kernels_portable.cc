// The micro-kernel in plain C++: the reference for the others' bits, and what runs where there is
// neither AVX2 nor NEON (there std::fma may be a library call: right, and slow).
#include <cmath>
#include <utility>

#include "linalg/gemm_kernel.h"

namespace subbit {
namespace {

constexpr int kRows = 4;
constexpr int kLanes = 4;
constexpr int kVectors = 2;

template <int Rows, int Vectors>
void run_tile(const GemmTile& tile) {
  constexpr int kWidth = Vectors * kLanes;
  float sums[Rows][kWidth] = {};
  for (int64_t k = 0; k < tile.depth; ++k) {
    const float* a = tile.a + k * gemm_pitch(Rows);
    const float* b = tile.b + k * kWidth;
    for (int r = 0; r < Rows; ++r)
      for (int j = 0; j < kWidth; ++j) sums[r][j] = std::fma(a[r], b[j], sums[r][j]);
  }
  for (int r = 0; r < Rows; ++r) {
    float* c = tile.c + r * tile.c_stride;
    for (int j = 0; j < kWidth; ++j)
      c[j] = tile.accumulate == Accumulate::kAdd ? c[j] + sums[r][j] : sums[r][j];
  }
}

template <int... Row>
GemmKernel make_kernel(std::integer_sequence<int, Row...>) {
  GemmKernel kernel{"portable", kRows, kVectors, kLanes, GemmKernel::Cell::kFloat, gemm_pack, {}};
  ((kernel.run[Row][0] = run_tile<Row + 1, 1>, kernel.run[Row][1] = run_tile<Row + 1, 2>), ...);
  return kernel;
}

}  // namespace

const GemmKernel& gemm_kernel_portable() {
  static const GemmKernel kernel = make_kernel(std::make_integer_sequence<int, kRows>());
  return kernel;
}

}  // namespace subbit
