// Micro-kernels for x86: AVX2 with 6 x 16 tiles (12 of 16 registers hold sums) and AVX-512 with
// 14 x 32 (28 of 32). Each step of k loads one or two vectors of the right panel and broadcasts the
// left panel's rows one after another. The AVX-512 BF16 kernel is the AVX-512 one with pairs for
// floats. On Macs AVX-512 is left out: gemm() never runs there, and some of their compilers want it
// under another feature name.
#if defined(__x86_64__)

#include <immintrin.h>
#include <utility>

#include "linalg/gemm_kernel.h"

namespace subbit {
namespace {

template <int Rows, int Vectors>
__attribute__((target("avx2,fma"))) void run_tile_avx2(const GemmTile& tile) {
  constexpr int kPitch = (Rows + 3) / 4 * 4;
  __m256 sums[Rows][Vectors];
  SUBBIT_UNROLL
  for (int r = 0; r < Rows; ++r) {
    SUBBIT_UNROLL
    for (int v = 0; v < Vectors; ++v) sums[r][v] = _mm256_setzero_ps();
  }
  const float* a = tile.a;  // [depth, kPitch]
  const float* b = tile.b;  // [depth, Vectors * 8]
  for (int64_t k = tile.depth; k > 0; --k, a += kPitch, b += Vectors * 8) {
    __m256 right[Vectors];
    SUBBIT_UNROLL
    for (int v = 0; v < Vectors; ++v) right[v] = _mm256_loadu_ps(b + 8 * v);
    SUBBIT_UNROLL
    for (int r = 0; r < Rows; ++r) {
      const __m256 left = _mm256_broadcast_ss(a + r);
      SUBBIT_UNROLL
      for (int v = 0; v < Vectors; ++v) sums[r][v] = _mm256_fmadd_ps(left, right[v], sums[r][v]);
    }
  }
  SUBBIT_UNROLL
  for (int r = 0; r < Rows; ++r) {
    SUBBIT_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      float* c = tile.c + r * tile.c_stride + 8 * v;
      __m256 sum = sums[r][v];
      if (tile.accumulate == Accumulate::kAdd) sum = _mm256_add_ps(_mm256_loadu_ps(c), sum);
      _mm256_storeu_ps(c, sum);
    }
  }
}

#if !defined(__APPLE__)

template <int Rows, int Vectors>
__attribute__((target("avx512f"))) void run_tile_avx512(const GemmTile& tile) {
  constexpr int kPitch = (Rows + 3) / 4 * 4;
  __m512 sums[Rows][Vectors];
  SUBBIT_UNROLL
  for (int r = 0; r < Rows; ++r) {
    SUBBIT_UNROLL
    for (int v = 0; v < Vectors; ++v) sums[r][v] = _mm512_setzero_ps();
  }
  const float* a = tile.a;  // [depth, kPitch]
  const float* b = tile.b;  // [depth, Vectors * 16]
  for (int64_t k = tile.depth; k > 0; --k, a += kPitch, b += Vectors * 16) {
    __m512 right[Vectors];
    SUBBIT_UNROLL
    for (int v = 0; v < Vectors; ++v) right[v] = _mm512_loadu_ps(b + 16 * v);
    SUBBIT_UNROLL
    for (int r = 0; r < Rows; ++r) {
      const __m512 left = _mm512_set1_ps(a[r]);
      SUBBIT_UNROLL
      for (int v = 0; v < Vectors; ++v) sums[r][v] = _mm512_fmadd_ps(left, right[v], sums[r][v]);
    }
  }
  SUBBIT_UNROLL
  for (int r = 0; r < Rows; ++r) {
    SUBBIT_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      float* c = tile.c + r * tile.c_stride + 16 * v;
      __m512 sum = sums[r][v];
      if (tile.accumulate == Accumulate::kAdd) sum = _mm512_add_ps(_mm512_loadu_ps(c), sum);
      _mm512_storeu_ps(c, sum);
    }
  }
}

template <int Rows, int Vectors>
__attribute__((target("avx512f,avx512bf16"))) void run_tile_avx512_bf16(const GemmTile& tile) {
  constexpr int kPitch = (Rows + 3) / 4 * 4;
  __m512 sums[Rows][Vectors];
  SUBBIT_UNROLL
  for (int r = 0; r < Rows; ++r) {
    SUBBIT_UNROLL
    for (int v = 0; v < Vectors; ++v) sums[r][v] = _mm512_setzero_ps();
  }
  const float* a = tile.a;  // [depth, kPitch] pairs
  const float* b = tile.b;  // [depth, Vectors * 16] pairs
  for (int64_t k = tile.depth; k > 0; --k, a += kPitch, b += Vectors * 16) {
    __m512bh right[Vectors];
    SUBBIT_UNROLL
    for (int v = 0; v < Vectors; ++v)
      right[v] = reinterpret_cast<__m512bh>(_mm512_loadu_ps(b + 16 * v));
    SUBBIT_UNROLL
    for (int r = 0; r < Rows; ++r) {
      const auto left = reinterpret_cast<__m512bh>(_mm512_set1_ps(a[r]));
      SUBBIT_UNROLL
      for (int v = 0; v < Vectors; ++v) sums[r][v] = _mm512_dpbf16_ps(sums[r][v], left, right[v]);
    }
  }
  SUBBIT_UNROLL
  for (int r = 0; r < Rows; ++r) {
    SUBBIT_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      float* c = tile.c + r * tile.c_stride + 16 * v;
      __m512 sum = sums[r][v];
      if (tile.accumulate == Accumulate::kAdd) sum = _mm512_add_ps(_mm512_loadu_ps(c), sum);
      _mm512_storeu_ps(c, sum);
    }
  }
}

template <int... Row>
GemmKernel make_avx512(std::integer_sequence<int, Row...>) {
  GemmKernel kernel{"avx512", sizeof...(Row), 2, 16, GemmKernel::Cell::kFloat, gemm_pack_avx512,
                    {}};
  ((kernel.run[Row][0] = run_tile_avx512<Row + 1, 1>,
    kernel.run[Row][1] = run_tile_avx512<Row + 1, 2>),
   ...);
  return kernel;
}

template <int... Row>
GemmKernel make_avx512_bf16(std::integer_sequence<int, Row...>) {
  GemmKernel kernel{"avx512_bf16",
                    sizeof...(Row),
                    2,
                    16,
                    GemmKernel::Cell::kBFloat16Pair,
                    gemm_pack_avx512_bf16,
                    {}};
  ((kernel.run[Row][0] = run_tile_avx512_bf16<Row + 1, 1>,
    kernel.run[Row][1] = run_tile_avx512_bf16<Row + 1, 2>),
   ...);
  return kernel;
}

#endif  // !__APPLE__

template <int... Row>
GemmKernel make_avx2(std::integer_sequence<int, Row...>) {
  GemmKernel kernel{"avx2", sizeof...(Row), 2, 8, GemmKernel::Cell::kFloat, gemm_pack, {}};
  ((kernel.run[Row][0] = run_tile_avx2<Row + 1, 1>, kernel.run[Row][1] = run_tile_avx2<Row + 1, 2>),
   ...);
  return kernel;
}

}  // namespace

const GemmKernel& gemm_kernel_avx2() {
  static const GemmKernel kernel = make_avx2(std::make_integer_sequence<int, 6>());
  return kernel;
}

#if !defined(__APPLE__)
const GemmKernel& gemm_kernel_avx512() {
  static const GemmKernel kernel = make_avx512(std::make_integer_sequence<int, 14>());
  return kernel;
}

const GemmKernel& gemm_kernel_avx512_bf16() {
  static const GemmKernel kernel = make_avx512_bf16(std::make_integer_sequence<int, 14>());
  return kernel;
}
#endif

}  // namespace subbit

#endif  // __x86_64__
