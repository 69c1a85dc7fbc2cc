// Four floats as the compiler's own vector type: one text for SSE and NEON, no feature check, and
// no wondering whether a loop was vectorized. Arithmetic and comparison operators work lane by
// lane.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

namespace subbit {

using Float4 = float __attribute__((vector_size(16)));
using Uint4 = uint32_t __attribute__((vector_size(16)));
using Int4 = int32_t __attribute__((vector_size(16)));  // a comparison's answer: 0 or -1 each

inline Float4 load4(const float* p) {
  Float4 v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

inline void store4(float* p, Float4 v) { std::memcpy(p, &v, sizeof(v)); }

/// The first `count` < 4 floats, then zeros; and back.
inline Float4 load_some(const float* p, int64_t count) {
  Float4 v = {0.0f, 0.0f, 0.0f, 0.0f};
  std::memcpy(&v, p, static_cast<size_t>(count) * sizeof(float));
  return v;
}

inline void store_some(float* p, Float4 v, int64_t count) {
  std::memcpy(p, &v, static_cast<size_t>(count) * sizeof(float));
}

/// What the overload below is to four floats, for texts that serve both. No branch, or compilers
/// would not vectorize a loop over it.
inline float choose(bool mask, float a, float b) {
  const uint32_t bits = mask ? ~0u : 0u;
  return std::bit_cast<float>((bits & std::bit_cast<uint32_t>(a)) |
                              (~bits & std::bit_cast<uint32_t>(b)));
}

/// Lane by lane: mask ? a : b.
inline Float4 choose(Int4 mask, Float4 a, Float4 b) {
  const Int4 bits = (mask & reinterpret_cast<Int4>(a)) | (~mask & reinterpret_cast<Int4>(b));
  return reinterpret_cast<Float4>(bits);
}

}  // namespace subbit
