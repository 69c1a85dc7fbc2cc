// simdgroup_matrix of Metal's language: 8 x 8 elements that a simdgroup holds together. Which lane
// holds which element Metal leaves open, and a shader that knew would be wrong; here they lie
// scattered, and only load, store and products reach them. Every operation is one of the whole
// simdgroup: lanes meet at it or the kernel has diverged. A matrix that nothing was written to
// holds NaNs.
#pragma once

#include <cmath>
#include <limits>

#include "support/metal_on_cpu/shader_types.h"
#include "support/metal_on_cpu/threadgroup.h"

namespace subbit::metal_on_cpu {

/// The element that lane `lane` holds as its `i`th of two: 37 is odd, so all 64 occur.
constexpr uint32_t element_of(uint32_t lane, uint32_t i) { return (2 * lane + i) * 37 % 64; }

/// Where element (row, column) is: 2 * lane + i. 45 * 37 = 1 modulo 64.
constexpr uint32_t holder_of(uint32_t row, uint32_t column) { return (8 * row + column) * 45 % 64; }

}  // namespace subbit::metal_on_cpu

namespace metal {

struct ulong2 {
  ulong2() = default;
  ulong2(uint64_t all) : x(all), y(all) {}  // implicit, as in Metal
  ulong2(uint64_t x, uint64_t y) : x(x), y(y) {}
  uint64_t x = 0;
  uint64_t y = 0;
};

template <typename T, int kColumns, int kRows>
struct simdgroup_matrix {
  static_assert(kColumns == 8 && kRows == 8, "Metal has no other shape");
  T own[2] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::quiet_NaN()};

  simdgroup_matrix() = default;
  /// `diagonal` on the diagonal, zero elsewhere.
  explicit simdgroup_matrix(T diagonal) {
    for (uint32_t i = 0; i < 2; ++i) {
      const uint32_t e = subbit::metal_on_cpu::element_of(subbit::metal_on_cpu::lane(), i);
      own[i] = e / 8 == e % 8 ? diagonal : T(0.0f);
    }
  }
};

using simdgroup_float8x8 = simdgroup_matrix<float, 8, 8>;
using simdgroup_half8x8 = simdgroup_matrix<half, 8, 8>;

/// Elements from the first of row `row`'s to element (row, column) of a matrix in memory.
inline uint64_t matrix_offset(uint32_t element, uint64_t elements_per_row, ulong2 origin,
                              bool transpose) {
  const uint64_t row = transpose ? element % 8 : element / 8;
  const uint64_t column = transpose ? element / 8 : element % 8;
  return (origin.y + row) * elements_per_row + origin.x + column;
}

template <typename T>
inline void simdgroup_load(simdgroup_matrix<T, 8, 8>& to, const T* from,
                           uint64_t elements_per_row = 8, ulong2 origin = 0, bool transpose = false,
                           SUBBIT_SITE) {
  subbit::metal_on_cpu::exchange(0, Site{"simdgroup_load", file, line});
  for (uint32_t i = 0; i < 2; ++i) {
    const uint32_t e = subbit::metal_on_cpu::element_of(subbit::metal_on_cpu::lane(), i);
    to.own[i] = from[matrix_offset(e, elements_per_row, origin, transpose)];
  }
}

template <typename T>
inline void simdgroup_store(const simdgroup_matrix<T, 8, 8>& from, T* to,
                            uint64_t elements_per_row = 8, ulong2 origin = 0,
                            bool transpose = false, SUBBIT_SITE) {
  subbit::metal_on_cpu::exchange(0, Site{"simdgroup_store", file, line});
  for (uint32_t i = 0; i < 2; ++i) {
    const uint32_t e = subbit::metal_on_cpu::element_of(subbit::metal_on_cpu::lane(), i);
    to[matrix_offset(e, elements_per_row, origin, transpose)] = from.own[i];
  }
}

/// to = a * b + c, each element one chain of fused multiply-adds in float.
template <typename D, typename A, typename B, typename C>
inline void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8>& to,
                                          const simdgroup_matrix<A, 8, 8>& a,
                                          const simdgroup_matrix<B, 8, 8>& b,
                                          const simdgroup_matrix<C, 8, 8>& c, SUBBIT_SITE) {
  using namespace subbit::metal_on_cpu;
  struct Shares {
    float a[2];
    float b[2];
  };
  const auto all =
      exchange(Shares{{float(a.own[0]), float(a.own[1])}, {float(b.own[0]), float(b.own[1])}},
               Site{"simdgroup_multiply_accumulate", file, line});
  D sums[2];
  for (uint32_t i = 0; i < 2; ++i) {
    const uint32_t e = element_of(lane(), i);
    float sum = float(c.own[i]);
    for (uint32_t k = 0; k < 8; ++k) {
      const uint32_t left = holder_of(e / 8, k);
      const uint32_t right = holder_of(k, e % 8);
      sum = std::fma(all[left / 2].a[left % 2], all[right / 2].b[right % 2], sum);
    }
    sums[i] = D(sum);
  }
  to.own[0] = sums[0];
  to.own[1] = sums[1];
}

}  // namespace metal
