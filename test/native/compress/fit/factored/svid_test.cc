#include "compress/fit/factored/svid.h"

#include <cmath>
#include <vector>

#include "base/rng.h"
#include "support/test.h"

namespace subbit {
namespace {

struct Shaped {
  int64_t rows;
  int64_t cols;
};
constexpr Shaped kShapes[] = {{1, 1}, {1, 37}, {32, 1}, {7, 16}, {8, 17}, {9, 64}, {33, 129}};

TEST(svid_recovers_the_magnitudes_of_signs_times_an_outer_product) {
  ThreadPool pool(2);
  for (const auto& [rows, cols] : kShapes) {
    Rng rng(3);
    std::vector<double> u(rows);
    std::vector<double> v(cols);
    for (double& x : u) x = 0.1 + rng.uniform();
    for (double& x : v) x = 0.1 + rng.uniform();
    std::vector<float> m(rows * cols);
    for (int64_t k = 0; k < rows; ++k)
      for (int64_t j = 0; j < cols; ++j)
        m[k * cols + j] = static_cast<float>((rng.next() & 1 ? 1.0 : -1.0) * u[k] * v[j]);
    Svid svid;
    update_svid({m.data(), rows, cols}, 1, svid, pool);  // rank one: one step is exact
    for (int64_t k = 0; k < rows; ++k) {
      for (int64_t j = 0; j < cols; ++j) {
        // Sums of up to 129 floats in any order: below 129 * 2^-24 relative, three of them.
        const double expected = u[k] * v[j];
        EXPECT_NEAR(svid.row[k] * svid.column[j], expected, 3 * 129 * 0x1p-24 * expected);
      }
    }
  }
}

TEST(svid_of_zeros_is_zero_and_finite) {
  ThreadPool pool(1);
  const std::vector<float> m(12, 0.0f);
  Svid svid;
  update_svid({m.data(), 3, 4}, 5, svid, pool);
  for (const float x : svid.row) EXPECT_EQ(x, 0.0f);
  for (const float x : svid.column) EXPECT(std::isfinite(x));
}

TEST(svid_does_not_depend_on_the_number_of_threads) {
  Rng rng(5);
  std::vector<float> m(45 * 133);
  for (float& x : m) x = rng.normal();
  Svid one;
  Svid three;
  ThreadPool pool_of_one(1);
  ThreadPool pool_of_three(3);
  update_svid({m.data(), 45, 133}, 4, one, pool_of_one);
  update_svid({m.data(), 45, 133}, 4, three, pool_of_three);
  EXPECT(one.row == three.row);
  EXPECT(one.column == three.column);
}

}  // namespace
}  // namespace subbit
