#include "compress/fold.h"

#include <cmath>
#include <limits>
#include <vector>

#include "base/rng.h"
#include "support/test.h"

namespace subbit {
namespace {

std::vector<float> random(size_t count, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> values(count);
  for (float& x : values) x = rng.normal();
  return values;
}

TEST(a_scale_folded_into_a_norm_gives_the_same_products) {
  const std::vector<float> s_pre = random(33, 1);
  const std::vector<float> norm = random(33, 2);
  const std::vector<float> h = random(33, 3);
  std::vector<float> folded = norm;
  fold_into_norm(s_pre, folded);
  for (size_t j = 0; j < 33; ++j) {
    const float expected = h[j] * norm[j] * s_pre[j];
    EXPECT_NEAR(h[j] * folded[j], expected, std::fabs(expected) * 4 * 0x1p-24);
  }
}

TEST(a_scale_folded_into_the_rows_before_gives_the_same_outputs) {
  // y = D (s * (U x + b)), D [2, 5], U [8, 3] of which rows 3..7 feed D.
  ScaleFold fold;
  fold.into = ScaleFold::Into::kRowsOf;
  fold.first_row = 3;
  fold.width = 5;
  const std::vector<float> d = random(2 * 5, 1);
  const std::vector<float> u = random(8 * 3, 2);
  const std::vector<float> x = random(3, 3);
  const std::vector<float> s_pre = random(5, 4);
  const std::vector<float> s_post = random(8, 5);
  const std::vector<float> bias = random(8, 6);
  const auto outputs = [&](const std::vector<float>& post, const std::vector<float>& b,
                           const std::vector<float>& pre) {
    std::vector<double> y(2, 0.0);
    for (int64_t c = 0; c < 5; ++c) {
      double z = b[3 + c];
      for (int64_t j = 0; j < 3; ++j)
        z += static_cast<double>(post[3 + c]) * u[(3 + c) * 3 + j] * x[j];
      for (int64_t i = 0; i < 2; ++i) y[i] += static_cast<double>(d[i * 5 + c]) * pre[c] * z;
    }
    return y;
  };
  const std::vector<double> expected = outputs(s_post, bias, s_pre);
  std::vector<float> folded_post = s_post;
  std::vector<float> folded_bias = bias;
  fold_into_rows(fold, s_pre, folded_post, folded_bias);
  const std::vector<double> folded = outputs(folded_post, folded_bias, std::vector<float>(5, 1.0f));
  // Values of order one to ten, each scale rounded once to a float: far below 1e-5.
  for (size_t i = 0; i < 2; ++i) EXPECT_NEAR(folded[i], expected[i], 1e-5);
  for (size_t row = 0; row < 3; ++row) EXPECT_EQ(folded_post[row], s_post[row]);
}

TEST(a_scale_shared_by_query_heads_stays_with_its_linear) {
  ScaleFold fold;
  EXPECT(!folds_away(fold));
  fold.into = ScaleFold::Into::kNorm;
  EXPECT(folds_away(fold));
  fold.into = ScaleFold::Into::kRowsOf;
  EXPECT(folds_away(fold));
  fold.repeat = 4;
  EXPECT(!folds_away(fold));
}

TEST(a_folded_norm_keeps_its_size_in_halves_where_it_can) {
  const std::vector<float> norm = {1.0f, -0.3f, 0.0f, 900.5f, 0x1p-14f};
  const HalfNorm half = norm_to_halves(norm);
  EXPECT_EQ(half.exponent, 0);
  for (size_t j = 0; j < norm.size(); ++j)
    EXPECT_NEAR(to_float(half.values[j]), norm[j], std::fabs(norm[j]) * 0x1p-11);
}

TEST(a_folded_norm_beyond_the_halves_is_moved_by_a_power_of_two) {
  for (const float scale : {0x1p-30f, 0x1p+30f}) {
    const std::vector<float> norm = {1.0f * scale, -0.3f * scale, 0.0f, 0x1p-40f * scale};
    const HalfNorm half = norm_to_halves(norm);
    EXPECT(half.exponent != 0);
    for (size_t j = 0; j < norm.size(); ++j) {
      const float value = std::ldexp(to_float(half.values[j]), half.exponent);
      // What lies below 2^-28 of the largest becomes zero; the rest is rounded.
      EXPECT_NEAR(value, norm[j], std::fabs(norm[j]) * 0x1p-11 + 0x1p-28 * scale);
    }
  }
}

TEST(a_folded_norm_that_is_not_finite_is_an_error) {
  const std::vector<float> norm = {1.0f, std::numeric_limits<float>::infinity()};
  EXPECT_ERROR(ErrorCode::kNonFinite, "norm", norm_to_halves(norm));
}

}  // namespace
}  // namespace subbit
