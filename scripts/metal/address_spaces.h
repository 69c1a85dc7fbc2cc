// Metal's library as declarations for clang alone, with device and threadgroup memory as address
// spaces of their own: what Apple's compiler refuses about pointers is then an error here too. For
// -fsyntax-only; nothing of it runs. `constant` is plain const, because structs in an address space
// could not be copied out of it in C++.
//
//   clang++-19 -std=c++20 -fsyntax-only -include address_spaces.h metal/<op>.metal
#pragma once

#include <cstdint>

#define device __attribute__((address_space(1)))
#define threadgroup __attribute__((address_space(3)))
#define thread
#define constant const
#define KERNEL(name, parameters) void name parameters
#define THREADGROUP(index)
#define UNROLL _Pragma("clang loop unroll(full)")
#define INFINITY __builtin_inff()

namespace metal {

using uchar = unsigned char;
using ushort = unsigned short;
using uint = unsigned int;
using half = _Float16;
template <typename T, int N>
using vec = T __attribute__((ext_vector_type(N)));
using float4 = vec<float, 4>;
using half2 = vec<half, 2>;
using half4 = vec<half, 4>;
using int4 = vec<int, 4>;
using uint3 = vec<uint, 3>;
using uint4 = vec<uint, 4>;

template <typename To, typename From>
To as_type(From from) {
  return __builtin_bit_cast(To, from);
}

uint ctz(uint);
uint popcount(uint);
template <typename T>
T select(T, T, bool);
template <typename T>
T min(T, T);
template <typename T>
T max(T, T);
template <typename T>
T clamp(T, T, T);
float rint(float);
float sqrt(float);
float fma(float, float, float);
float ldexp(float, int);
float exp(float);
bool isnormal(float);
namespace fast {
float exp(float);
}

template <typename T>
T simd_sum(T);
template <typename T>
T simd_max(T);
template <typename T>
T simd_min(T);
template <typename T>
T simd_shuffle_xor(T, ushort);
template <typename T>
T simd_shuffle(T, ushort);
template <typename T>
T simd_broadcast(T, ushort);
bool simd_any(bool);
struct simd_vote {
  using vote_t = uint64_t;
  explicit operator vote_t() const;
};
simd_vote simd_ballot(bool);

enum class mem_flags { mem_none, mem_device, mem_threadgroup };
void threadgroup_barrier(mem_flags);
void simdgroup_barrier(mem_flags);

template <typename T, int kColumns, int kRows>
struct simdgroup_matrix {
  simdgroup_matrix();
  explicit simdgroup_matrix(T diagonal);
};
using simdgroup_float8x8 = simdgroup_matrix<float, 8, 8>;
using simdgroup_half8x8 = simdgroup_matrix<half, 8, 8>;
using ulong2 = vec<unsigned long, 2>;
template <typename T>
void simdgroup_load(simdgroup_matrix<T, 8, 8>&, device const T*, unsigned long = 8, ulong2 = 0,
                    bool = false);
template <typename T>
void simdgroup_load(simdgroup_matrix<T, 8, 8>&, threadgroup const T*, unsigned long = 8, ulong2 = 0,
                    bool = false);
template <typename T>
void simdgroup_store(simdgroup_matrix<T, 8, 8>, device T*, unsigned long = 8, ulong2 = 0,
                     bool = false);
template <typename T>
void simdgroup_store(simdgroup_matrix<T, 8, 8>, threadgroup T*, unsigned long = 8, ulong2 = 0,
                     bool = false);
template <typename D, typename A, typename B, typename C>
void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8>&, simdgroup_matrix<A, 8, 8>,
                                   simdgroup_matrix<B, 8, 8>, simdgroup_matrix<C, 8, 8>);
enum memory_order { memory_order_relaxed };
struct atomic_uint {
  uint value;
};
uint atomic_fetch_or_explicit(device atomic_uint*, uint, memory_order);

}  // namespace metal

using namespace metal;
