// exp in float, for softmax and silu: the same bits on every machine, C library and vector width,
// because it is nothing but products, sums and integer arithmetic in a fixed order. Straight-line,
// so that a loop over it becomes vector code.
#pragma once

#include <bit>
#include <cstdint>

namespace subbit {

/// e^x within 2 ulp; zero below -87.3 (where the result would leave the normal numbers), infinity
/// above 88.72283, NaN for NaN.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2 (Cody and Waite 1980: ln 2 in two parts, the first short
/// enough that n times it is exact), then e^r = 1 + r + r^2 p(r), then n into the exponent. p is
/// the polynomial of degree 4 that minimises the relative error of e^r (Remez; 3.6e-9 after its
/// coefficients are rounded to float).
inline __attribute__((always_inline)) float exponential(float x) {
  constexpr float kLowest = -87.3f;
  constexpr float kHighest = 88.72283f;  // the largest float whose result is finite
  // Adding 1.5 * 2^23 rounds to the nearest integer, which then stands in the low bits.
  constexpr float kRounder = 0x1.8p23f;
  constexpr float kLn2High = 0x1.63p-1f;  // 355 / 512
  constexpr float kLn2Low = -0x1.bd0106p-13f;
  float bounded = x < kLowest ? kLowest : x;
  bounded = bounded > kHighest ? kHighest : bounded;
  const float rounded = bounded * 0x1.715476p0f + kRounder;
  const float n = rounded - kRounder;
  const float r = (bounded - n * kLn2High) - n * kLn2Low;
  float p = 0x1.6a23dp-10f;
  p = p * r + 0x1.123a2p-7f;
  p = p * r + 0x1.5558f2p-5f;
  p = p * r + 0x1.555492p-3f;
  p = p * r + 0x1.fffffcp-2f;
  const float fraction = 1.0f + (r + (r * r) * p);
  // The low bits of `rounded` are n; shifted, they add to the exponent of `fraction`.
  const uint32_t power = std::bit_cast<uint32_t>(rounded) << 23;
  float result = std::bit_cast<float>(std::bit_cast<uint32_t>(fraction) + power);
  result = x < kLowest ? 0.0f : result;
  result = x > kHighest ? std::bit_cast<float>(0x7F800000u) : result;
  return x == x ? result : x;
}

}  // namespace subbit
