// Metal's shading language as C++ for the files of metal/: include this, then a .metal file, in a
// .cc file of its own. It is stricter than Metal in places (no implicit vector conversion) and
// knows only what the dialect of metal/README.md allows.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "support/metal_on_cpu/kernel_registry.h"
#include "support/metal_on_cpu/shader_types.h"
#include "support/metal_on_cpu/threadgroup.h"

#if defined(__clang__)
#pragma clang diagnostic ignored "-Wunknown-attributes"
#pragma clang diagnostic ignored "-Wunused-function"
#pragma clang diagnostic ignored "-Wunused-parameter"
#else
#pragma GCC diagnostic ignored "-Wattributes"
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#endif

namespace subbit::metal_on_cpu {

template <typename Parameter>
struct Unpack {
  static Parameter from(void* value) { return *static_cast<Parameter*>(value); }
  static constexpr Layout layout = {sizeof(Parameter), 1};
};
template <typename T>
struct Unpack<T*> {
  static T* from(void* value) { return static_cast<T*>(value); }
  static constexpr Layout layout = {sizeof(T), alignof(T)};
};
template <typename T>
struct Unpack<T&> {
  static T& from(void* value) { return *static_cast<T*>(value); }
  static constexpr Layout layout = {sizeof(T), alignof(T)};
};

template <auto kernel>
struct Invoker;
template <typename... Parameters, void (*kernel)(Parameters...)>
struct Invoker<kernel> {
  static void invoke(void* const* values) {
    call(values, std::make_index_sequence<sizeof...(Parameters)>());
  }
  static std::vector<Layout> layouts() { return {Unpack<Parameters>::layout...}; }

 private:
  template <size_t... I>
  static void call(void* const* values, std::index_sequence<I...>) {
    kernel(Unpack<Parameters>::from(values[I])...);
  }
};

/// Lanes' values of a simd operation, by lane.
template <typename T>
struct Exchanged {
  const std::byte* slots;
  T operator[](uint32_t lane) const {
    T value;
    std::memcpy(&value, slots + lane * kSlotBytes, sizeof(T));
    return value;
  }
};

template <typename T>
Exchanged<T> exchange(T value, const Site& site) {
  static_assert(sizeof(T) <= kSlotBytes && std::is_trivially_copyable_v<T>);
  return {Threadgroup::current()->exchange(&value, sizeof(T), site)};
}

inline uint32_t lane() { return Threadgroup::current()->thread() % kLanes; }

}  // namespace subbit::metal_on_cpu

// Where a call stands in the shader: default arguments name the caller's line.
#define SUBBIT_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

namespace metal {

template <typename To, typename From>
inline To as_type(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

inline uint popcount(uint x) { return static_cast<uint>(std::popcount(x)); }
inline uint ctz(uint x) { return static_cast<uint>(std::countr_zero(x)); }
inline uint clz(uint x) { return static_cast<uint>(std::countl_zero(x)); }
template <typename T>
inline T select(T a, T b, bool c) {
  return c ? b : a;
}
template <typename T>
  requires std::is_arithmetic_v<T>
inline T min(T a, T b) {
  return b < a ? b : a;
}
template <typename T>
  requires std::is_arithmetic_v<T>
inline T max(T a, T b) {
  return a < b ? b : a;
}
template <typename T>
inline T clamp(T x, T low, T high) {
  return metal::min(metal::max(x, low), high);
}
inline float rint(float x) { return std::nearbyint(x); }
inline float sqrt(float x) { return std::sqrt(x); }
inline float fma(float a, float b, float c) { return std::fma(a, b, c); }
inline float ldexp(float x, int e) { return std::ldexp(x, e); }
inline float exp(float x) { return std::exp(x); }
inline float exp2(float x) { return std::exp2(x); }
inline bool isnormal(float x) { return std::isnormal(x); }
inline bool isfinite(float x) { return std::isfinite(x); }
inline float dot(float4 a, float4 b) { return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w; }

namespace fast {
inline float exp(float x) { return std::exp(x); }
inline float exp2(float x) { return std::exp2(x); }
}  // namespace fast

using subbit::metal_on_cpu::exchange;
using subbit::metal_on_cpu::Site;

template <typename T>
inline T simd_sum(T value, SUBBIT_SITE) {
  const auto all = exchange(value, Site{"simd_sum", file, line});
  T sum = all[0];
  for (uint i = 1; i < 32; ++i) sum += all[i];
  return sum;
}
template <typename T>
inline T simd_max(T value, SUBBIT_SITE) {
  const auto all = exchange(value, Site{"simd_max", file, line});
  T most = all[0];
  for (uint i = 1; i < 32; ++i) most = most < all[i] ? all[i] : most;
  return most;
}
template <typename T>
inline T simd_min(T value, SUBBIT_SITE) {
  const auto all = exchange(value, Site{"simd_min", file, line});
  T least = all[0];
  for (uint i = 1; i < 32; ++i) least = all[i] < least ? all[i] : least;
  return least;
}
template <typename T>
inline T simd_shuffle(T value, ushort source, SUBBIT_SITE) {
  return exchange(value, Site{"simd_shuffle", file, line})[source % 32];
}
template <typename T>
inline T simd_shuffle_xor(T value, ushort mask, SUBBIT_SITE) {
  const uint source = subbit::metal_on_cpu::lane() ^ mask;
  return exchange(value, Site{"simd_shuffle_xor", file, line})[source % 32];
}
template <typename T>
inline T simd_broadcast(T value, ushort source, SUBBIT_SITE) {
  return exchange(value, Site{"simd_broadcast", file, line})[source % 32];
}
inline bool simd_any(bool value, SUBBIT_SITE) {
  const auto all = exchange(value, Site{"simd_any", file, line});
  bool any = false;
  for (uint i = 0; i < 32; ++i) any |= all[i];
  return any;
}

class simd_vote {
 public:
  using vote_t = uint64_t;
  explicit simd_vote(vote_t bits) : bits_(bits) {}
  explicit operator vote_t() const { return bits_; }

 private:
  vote_t bits_;
};
inline simd_vote simd_ballot(bool value, SUBBIT_SITE) {
  const auto all = exchange(value, Site{"simd_ballot", file, line});
  uint64_t bits = 0;
  for (uint i = 0; i < 32; ++i) bits |= uint64_t{all[i]} << i;
  return simd_vote(bits);
}

enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2 };
inline mem_flags operator|(mem_flags a, mem_flags b) {
  return static_cast<mem_flags>(static_cast<int>(a) | static_cast<int>(b));
}
inline void threadgroup_barrier(mem_flags flags, SUBBIT_SITE) {
  const int bits = static_cast<int>(flags);
  subbit::metal_on_cpu::Threadgroup::current()->barrier({(bits & 1) != 0, (bits & 2) != 0},
                                                        Site{"threadgroup_barrier", file, line});
}
inline void simdgroup_barrier(mem_flags, SUBBIT_SITE) {
  subbit::metal_on_cpu::Threadgroup::current()->simdgroup_barrier(
      Site{"simdgroup_barrier", file, line});
}

enum memory_order { memory_order_relaxed };
struct atomic_uint {
  uint value;
};
// Elsewhere, so that a tracing build does not take it for a load and a store.
inline uint atomic_fetch_or_explicit(atomic_uint* a, uint bits, memory_order) {
  return subbit::metal_on_cpu::atomic_or(&a->value, bits);
}

}  // namespace metal

#include "support/metal_on_cpu/simdgroup_matrix.h"

// What metal/device/dialect.h spells for Apple's compiler. An empty macro is enough here: clang's
// address-space build checks the qualifiers.
#define device
#define threadgroup
#define thread
#define constant const
#define THREADGROUP(index)
#define UNROLL
#define KERNEL(name, parameters)                                                                 \
  void name parameters;                                                                          \
  static const ::subbit::metal_on_cpu::Registration registration_of_##name(                      \
      SUBBIT_KERNEL_PREFIX #name, #parameters, ::subbit::metal_on_cpu::Invoker<name>::layouts(), \
      ::subbit::metal_on_cpu::Invoker<name>::invoke);                                            \
  void name parameters

// Of the names that a file's kernels are registered under. A file that plants a fault in a shader
// gives them a name and a namespace of their own.
#ifndef SUBBIT_KERNEL_PREFIX
#define SUBBIT_KERNEL_PREFIX ""
#endif

using namespace metal;  // as the shaders have it
