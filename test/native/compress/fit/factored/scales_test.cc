#include "compress/fit/factored/scales.h"

#include <vector>

#include "base/rng.h"
#include "support/test.h"

namespace subbit {
namespace {

struct Problem {
  int64_t rows;
  int64_t cols;
  std::vector<float> w;
  std::vector<float> product;
  std::vector<float> row_weights;
  std::vector<float> column_weights;

  ConstMatrix target() const { return {w.data(), rows, cols}; }
  ConstMatrix signs() const { return {product.data(), rows, cols}; }
  ElementWeights weights() const { return {row_weights, column_weights}; }
};

Problem random_problem(int64_t rows, int64_t cols) {
  Rng rng(11);
  Problem p{rows, cols, {}, {}, {}, {}};
  for (int64_t i = 0; i < rows * cols; ++i) {
    p.w.push_back(rng.normal());
    p.product.push_back(static_cast<float>(static_cast<int64_t>(rng.next() % 17) * 2 - 17));
  }
  for (int64_t i = 0; i < rows; ++i)
    p.row_weights.push_back(0.1f + static_cast<float>(rng.uniform()));
  for (int64_t j = 0; j < cols; ++j)
    p.column_weights.push_back(0.01f + static_cast<float>(rng.uniform()));
  return p;
}

TEST(scale_refits_recover_exact_scales) {
  ThreadPool pool(2);
  Problem p = random_problem(37, 129);
  std::vector<float> post(37);
  std::vector<float> pre(129);
  Rng rng(2);
  for (float& x : post) x = rng.normal();
  for (float& x : pre) x = rng.normal();
  for (int64_t i = 0; i < 37; ++i)
    for (int64_t j = 0; j < 129; ++j) p.w[i * 129 + j] = post[i] * p.product[i * 129 + j] * pre[j];
  Scales scales{std::vector<float>(37, 1.0f), std::vector<float>(129, 1.0f)};
  refit_scales(p.target(), p.signs(), p.weights(), 60, scales, pool);
  // Alternation converges linearly; 60 rounds leave only the rounding of the floats.
  EXPECT(relative_error(p.target(), p.signs(), scales, p.weights(), pool) < 1e-10);
}

TEST(each_scale_refit_lowers_the_weighted_error) {
  ThreadPool pool(1);
  const Problem p = random_problem(24, 31);
  Scales scales{std::vector<float>(24, 0.01f), std::vector<float>(31, 1.0f)};
  double before = relative_error(p.target(), p.signs(), scales, p.weights(), pool);
  for (int round = 0; round < 6; ++round) {
    refit_scales(p.target(), p.signs(), p.weights(), 1, scales, pool);
    const double after = relative_error(p.target(), p.signs(), scales, p.weights(), pool);
    EXPECT(after <= before * (1 + 1e-6));
    before = after;
  }
}

TEST(a_scale_without_products_keeps_its_value) {
  ThreadPool pool(1);
  Problem p = random_problem(5, 6);
  for (int64_t j = 0; j < 6; ++j) p.product[2 * 6 + j] = 0.0f;
  Scales scales{std::vector<float>(5, 3.0f), std::vector<float>(6, 1.0f)};
  refit_scales(p.target(), p.signs(), p.weights(), 1, scales, pool);
  EXPECT_EQ(scales.post[2], 3.0f);
  EXPECT(scales.post[1] != 3.0f);
}

TEST(balancing_scales_changes_no_product) {
  Scales scales{{2.0f, -4.0f}, {0.5f, -8.0f, 0.0f}};
  const Scales before = scales;
  balance_scales(scales);
  double squares = 0.0;
  for (const float x : scales.pre) squares += static_cast<double>(x) * x;
  EXPECT_NEAR(squares / 3.0, 1.0, 4 * 0x1p-24);
  for (size_t i = 0; i < 2; ++i) {
    for (size_t j = 0; j < 3; ++j) {
      const double expected = static_cast<double>(before.post[i]) * before.pre[j];
      EXPECT_NEAR(scales.post[i] * scales.pre[j], expected, std::fabs(expected) * 4 * 0x1p-24);
    }
  }
}

}  // namespace
}  // namespace subbit
