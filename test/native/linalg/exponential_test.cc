// The engine's own exp against the C library's in double.
#include "linalg/exponential.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "support/test.h"

namespace subbit {
namespace {

float exponential_of(float x) { return exponential(Float4{x, 0.0f, 0.0f, 0.0f})[0]; }

/// |approximate - exact| in units of the last place of a float near `exact`.
double ulps(float approximate, double exact) {
  const int exponent = std::ilogb(exact);
  return std::fabs(approximate - exact) / std::ldexp(1.0, exponent - 23);
}

TEST(exponential_is_within_two_ulp_over_its_whole_range) {
  double worst = 0;
  float worst_at = 0;
  const auto visit = [&](float x) {
    const double error = ulps(exponential_of(x), std::exp(double{x}));
    if (!(error <= worst)) worst = error, worst_at = x;
  };
  // Every 1009th float of both signs, from the smallest on.
  for (uint32_t bits = 1; bits < 0x42B00000u; bits += 1009) {  // 88
    const float x = std::bit_cast<float>(bits);
    visit(x);
    if (x <= 87.3f) visit(-x);
  }
  // Where n steps from one integer to the next, and where the halves of r meet.
  for (int n = -251; n <= 253; ++n) {
    float x = static_cast<float>(0.5 * n * std::log(2.0));
    for (int i = 0; i < 50; ++i) x = std::nextafter(x, -1000.0f);
    for (int i = 0; i < 100; ++i, x = std::nextafter(x, 1000.0f))
      if (x >= -87.3f && x <= 88.0f) visit(x);
  }
  if (!(worst <= 2.0))
    test::fail(__FILE__, __LINE__, std::to_string(worst) + " ulp at " + std::to_string(worst_at));
}

TEST(exponential_knows_its_ends) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(exponential_of(0.0f), 1.0f);
  EXPECT_EQ(exponential_of(-0.0f), 1.0f);
  EXPECT_EQ(exponential_of(-infinity), exponential_of(-87.3f));
  EXPECT_EQ(exponential_of(infinity), exponential_of(88.0f));
  EXPECT(exponential_of(-87.3f) >= std::numeric_limits<float>::min());
  EXPECT(std::isfinite(exponential_of(88.0f)));
  EXPECT(std::isnan(exponential_of(std::numeric_limits<float>::quiet_NaN())));
  EXPECT(std::isnan(exponential_of(-std::numeric_limits<float>::quiet_NaN())));
}

TEST(exponential_of_one_float_is_a_lane_of_four) {
  for (float x = -90.0f; x < 90.0f; x += 0.37f) EXPECT_EQ(exponential(x), exponential_of(x));
  EXPECT(std::isnan(exponential(std::numeric_limits<float>::quiet_NaN())));
}

TEST(exponential_treats_its_four_lanes_alike) {
  for (float x = -90.0f; x < 90.0f; x += 0.37f) {
    const Float4 all = exponential(Float4{x, 1.0f - x, 0.5f * x, x});
    EXPECT_EQ(all[0], exponential_of(x));
    EXPECT_EQ(all[1], exponential_of(1.0f - x));
    EXPECT_EQ(all[2], exponential_of(0.5f * x));
    EXPECT_EQ(all[3], all[0]);
  }
}

}  // namespace
}  // namespace subbit
