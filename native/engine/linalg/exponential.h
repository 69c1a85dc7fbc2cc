// exp in float, for softmax and silu: the same bits on every machine and C library, because it is
// nothing but products, sums and integer arithmetic in a fixed order.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

#include "base/float4.h"

namespace subbit {

/// e^x within 2 ulp for x in [-87.3, 88]; x beyond is moved to the nearer end, which neither a
/// softmax nor a silu can tell from the truth. NaN for NaN. A loop over single floats is one that
/// compilers vectorize.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2 (Cody and Waite 1980: ln 2 in two parts, the first short
/// enough that n times it is exact), then e^r = 1 + r + r^2 p(r), then times 2^n. p is the
/// polynomial of degree 4 that minimises the relative error of e^r (Remez; 3.6e-9 after its
/// coefficients are rounded to float).
template <typename Floats>
  requires std::is_same_v<Floats, float> || std::is_same_v<Floats, Float4>
inline Floats exponential(Floats x) {
  using Bits = std::conditional_t<std::is_same_v<Floats, float>, uint32_t, Uint4>;
  constexpr float kLowest = -87.3f;  // n >= -126: the scale and the result are normal
  constexpr float kHighest = 88.0f;  // n <= 127
  // Adding 1.5 * 2^23 rounds to the nearest integer, which then stands in the low bits.
  constexpr float kRounder = 0x1.8p23f;
  constexpr float kLn2High = 0x1.63p-1f;  // 355 / 512
  constexpr float kLn2Low = -0x1.bd0106p-13f;
  x = choose(x < kLowest, Floats{} + kLowest, x);
  x = choose(x > kHighest, Floats{} + kHighest, x);
  const Floats rounded = x * 0x1.715476p0f + kRounder;
  const Floats n = rounded - kRounder;
  const Floats r = (x - n * kLn2High) - n * kLn2Low;
  Floats p = r * 0x1.6a23dp-10f + 0x1.123a2p-7f;
  p = p * r + 0x1.5558f2p-5f;
  p = p * r + 0x1.555492p-3f;
  p = p * r + 0x1.fffffcp-2f;
  const Floats fraction = 1.0f + (r + (r * r) * p);
  const Bits power = (std::bit_cast<Bits>(rounded) << 23) + (127u << 23);
  return fraction * std::bit_cast<Floats>(power);  // a product, so that a NaN survives
}

}  // namespace subbit
