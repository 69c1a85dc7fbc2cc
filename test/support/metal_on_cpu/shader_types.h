// The scalar and vector types of Metal's language as C++, so far as the shaders' dialect uses them.
// Arithmetic on halves is done in float and rounded after every operation, which is exact rounding
// (float has more than twice a half's bits, plus two).
#pragma once

#include <cstdint>

#include "base/half.h"

namespace metal {

using uchar = uint8_t;
using ushort = uint16_t;
using uint = uint32_t;

struct half {
  half() = default;
  half(float value) : bits(subbit::to_half(value).bits) {}  // implicit, as in Metal
  operator float() const { return subbit::to_float(subbit::Half{bits}); }
  uint16_t bits;
};

struct bfloat_bits {  // bfloat16 as it lies in memory: bfloat is newer than the baseline
  uint16_t bits;
};

template <typename T, int N>
struct vec;

template <typename T>
struct alignas(2 * sizeof(T)) vec<T, 2> {
  vec() = default;
  explicit vec(T all) : x(all), y(all) {}
  vec(T x, T y) : x(x), y(y) {}
  T& operator[](int i) { return (&x)[i]; }
  const T& operator[](int i) const { return (&x)[i]; }
  T x, y;
};

template <typename T>
struct alignas(4 * sizeof(T)) vec<T, 3> {
  vec() = default;
  explicit vec(T all) : x(all), y(all), z(all) {}
  vec(T x, T y, T z) : x(x), y(y), z(z) {}
  T& operator[](int i) { return (&x)[i]; }
  const T& operator[](int i) const { return (&x)[i]; }
  T x, y, z;
};

template <typename T>
struct alignas(4 * sizeof(T)) vec<T, 4> {
  vec() = default;
  explicit vec(T all) : x(all), y(all), z(all), w(all) {}
  vec(T x, T y, T z, T w) : x(x), y(y), z(z), w(w) {}
  /// Conversion lane by lane must be spelled out, as in Metal.
  template <typename U>
  explicit vec(const vec<U, 4>& v) : x(T(v.x)), y(T(v.y)), z(T(v.z)), w(T(v.w)) {}
  T& operator[](int i) { return (&x)[i]; }
  const T& operator[](int i) const { return (&x)[i]; }
  T x, y, z, w;
};

#define SUBBIT_VECTOR_OPERATOR(op)                                \
  template <typename T, int N>                                    \
  inline vec<T, N> operator op(vec<T, N> a, const vec<T, N>& b) { \
    for (int i = 0; i < N; ++i) a[i] = a[i] op b[i];              \
    return a;                                                     \
  }                                                               \
  template <typename T, int N>                                    \
  inline vec<T, N> operator op(vec<T, N> a, T b) {                \
    for (int i = 0; i < N; ++i) a[i] = a[i] op b;                 \
    return a;                                                     \
  }                                                               \
  template <typename T, int N>                                    \
  inline vec<T, N>& operator op##=(vec<T, N>& a, vec<T, N> b) {   \
    a = a op b;                                                   \
    return a;                                                     \
  }
SUBBIT_VECTOR_OPERATOR(+)
SUBBIT_VECTOR_OPERATOR(-)
SUBBIT_VECTOR_OPERATOR(*)
SUBBIT_VECTOR_OPERATOR(&)
SUBBIT_VECTOR_OPERATOR(|)
SUBBIT_VECTOR_OPERATOR(^)
#undef SUBBIT_VECTOR_OPERATOR

template <typename T, int N>
inline vec<T, N> operator~(vec<T, N> a) {
  for (int i = 0; i < N; ++i) a[i] = ~a[i];
  return a;
}

using float2 = vec<float, 2>;
using float3 = vec<float, 3>;
using float4 = vec<float, 4>;
using half2 = vec<half, 2>;
using half4 = vec<half, 4>;
using int4 = vec<int, 4>;
using uint2 = vec<uint, 2>;
using uint3 = vec<uint, 3>;
using uint4 = vec<uint, 4>;
using char4 = vec<signed char, 4>;
using uchar4 = vec<uchar, 4>;

}  // namespace metal
