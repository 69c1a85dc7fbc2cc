// Half and bfloat16 over all their values: what is written to a file must be the nearest number on
// every machine. The yardstick is arithmetic in double, which holds every half and every midpoint
// between two halves exactly.
#include "base/half.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "base/rng.h"
#include "support/test.h"

namespace subbit {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

Half half_of(uint32_t bits) { return {static_cast<uint16_t>(bits)}; }
BFloat16 bfloat16_of(uint32_t bits) { return {static_cast<uint16_t>(bits)}; }

/// A finite half by the standard's definition.
double half_value(uint32_t bits) {
  const int exponent = static_cast<int>((bits >> 10) & 0x1F);
  const double mantissa = bits & 0x3FF;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024.0 + mantissa, exponent - 25);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

double bfloat16_value(uint32_t bits) {
  const int exponent = static_cast<int>((bits >> 7) & 0xFF);
  const double mantissa = bits & 0x7F;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -133) : std::ldexp(128.0 + mantissa, exponent - 134);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

TEST(every_half_reads_as_the_number_it_stands_for) {
  int wrong = 0;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = to_float(half_of(bits));
    const bool negative = (bits & 0x8000) != 0;
    if (std::signbit(value) != negative) ++wrong;
    if ((bits & 0x7C00) != 0x7C00) {
      if (static_cast<double>(value) != half_value(bits)) ++wrong;
    } else if ((bits & 0x3FF) == 0) {
      if (std::fabs(value) != kInfinity) ++wrong;
    } else if (!std::isnan(value)) {
      ++wrong;
    }
  }
  EXPECT_EQ(wrong, 0);
}

TEST(every_half_survives_the_way_through_float) {
  int wrong = 0;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const uint32_t back = to_half(to_float(half_of(bits))).bits;
    const bool nan = (bits & 0x7C00) == 0x7C00 && (bits & 0x3FF) != 0;
    const uint32_t expected = nan ? (bits & 0x8000) | 0x7E00 : bits;  // one NaN for all
    if (back != expected) ++wrong;
  }
  EXPECT_EQ(wrong, 0);
}

TEST(halfway_between_two_halves_goes_to_the_even_one) {
  int wrong = 0;
  for (uint32_t low = 0; low < 0x7BFF; ++low) {
    const uint32_t high = low + 1;
    // 12 significant bits: exact in float.
    const auto middle = static_cast<float>((half_value(low) + half_value(high)) / 2);
    const uint32_t even = (low & 1) == 0 ? low : high;
    if (to_half(middle).bits != even) ++wrong;
    if (to_half(-middle).bits != (even | 0x8000)) ++wrong;
    if (to_half(std::nextafter(middle, 0.0f)).bits != low) ++wrong;
    if (to_half(std::nextafter(middle, kInfinity)).bits != high) ++wrong;
    if (to_half(std::nextafter(-middle, 0.0f)).bits != (low | 0x8000)) ++wrong;
    if (to_half(std::nextafter(-middle, -kInfinity)).bits != (high | 0x8000)) ++wrong;
  }
  EXPECT_EQ(wrong, 0);
}

TEST(a_number_too_large_for_half_becomes_infinity_not_a_wrong_number) {
  EXPECT_EQ(to_half(65504.0f).bits, 0x7BFF);
  EXPECT_EQ(to_half(std::nextafter(65520.0f, 0.0f)).bits, 0x7BFF);
  EXPECT_EQ(to_half(65520.0f).bits, 0x7C00);  // halfway to 2^16, whose mantissa is even
  EXPECT_EQ(to_half(std::numeric_limits<float>::max()).bits, 0x7C00);
  EXPECT_EQ(to_half(kInfinity).bits, 0x7C00);
  EXPECT_EQ(to_half(-kInfinity).bits, 0xFC00);
  EXPECT_EQ(to_half(std::numeric_limits<float>::denorm_min()).bits, 0);
  EXPECT_EQ(to_half(-0.0f).bits, 0x8000);
}

TEST(random_floats_round_to_the_nearest_half) {
  Rng rng(1);
  int wrong = 0;
  for (int i = 0; i < 200000; ++i) {
    const auto value = std::bit_cast<float>(static_cast<uint32_t>(rng.next()));
    if (std::isnan(value) || std::fabs(value) >= 65520.0f) continue;
    const uint32_t bits = to_half(value).bits;
    if ((bits & 0x7C00) == 0x7C00) {
      ++wrong;
      continue;
    }
    // Nearer than, or as near as, both neighbours (a step towards zero from zero is itself).
    const double error = std::fabs(half_value(bits) - static_cast<double>(value));
    const uint32_t inner = (bits & 0x7FFF) == 0 ? bits : bits - 1;
    if (std::fabs(half_value(inner) - static_cast<double>(value)) < error) ++wrong;
    const bool has_outer = (bits & 0x7FFF) < 0x7BFF;
    if (has_outer && std::fabs(half_value(bits + 1) - static_cast<double>(value)) < error) ++wrong;
  }
  EXPECT_EQ(wrong, 0);
}

TEST(every_bfloat16_reads_and_survives_the_way_through_float) {
  int wrong = 0;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = to_float(bfloat16_of(bits));
    const bool special = (bits & 0x7F80) == 0x7F80;
    const bool nan = special && (bits & 0x7F) != 0;
    if (!special && static_cast<double>(value) != bfloat16_value(bits)) ++wrong;
    if (nan != std::isnan(value)) ++wrong;
    const uint32_t back = to_bfloat16(value).bits;
    if (back != (nan ? bits | 0x40 : bits)) ++wrong;  // NaNs become quiet, and stay NaNs
  }
  EXPECT_EQ(wrong, 0);
}

TEST(halfway_between_two_bfloat16_goes_to_the_even_one) {
  int wrong = 0;
  for (uint32_t low = 0; low < 0x7F80; ++low) {
    // The float halfway up to the next bfloat16; after the largest, that next is infinity.
    const uint32_t middle = (low << 16) | 0x8000;
    for (const uint32_t sign : {0u, 0x80000000u}) {
      const uint32_t even = (low & 1) == 0 ? low : low + 1;
      const auto rounded = [&](uint32_t bits) {
        return to_bfloat16(std::bit_cast<float>(bits | sign)).bits;
      };
      if (rounded(middle) != (even | (sign >> 16))) ++wrong;
      if (rounded(middle - 1) != (low | (sign >> 16))) ++wrong;
      if (rounded(middle + 1) != ((low + 1) | (sign >> 16))) ++wrong;
    }
  }
  EXPECT_EQ(wrong, 0);
}

TEST(a_nan_whose_payload_lies_in_the_lost_bits_stays_a_nan) {
  const auto nan = std::bit_cast<float>(0x7F800001u);
  EXPECT(std::isnan(to_float(to_bfloat16(nan))));
  EXPECT(std::isnan(to_float(to_half(nan))));
  EXPECT(std::isnan(to_float(to_bfloat16(std::bit_cast<float>(0x7FFFFFFFu)))));
}

}  // namespace
}  // namespace subbit
