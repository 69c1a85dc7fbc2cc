// rms_norm on the CPU against doubles; a row's scale does not depend on its neighbours.
#include <cmath>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "tensors.h"

namespace subbit {
namespace {

using test::OwnedTensor;

std::vector<float> make_norm(int64_t cols) {
  std::vector<float> weight(static_cast<size_t>(cols));
  Rng rng(99);
  for (float& value : weight) value = 1.0f + 0.2f * rng.normal();
  return weight;
}

TEST(rms_norm_leaves_the_reciprocal_root_mean_square_beside_the_row) {
  ThreadPool pool(2);
  const auto backend = make_cpu_backend(pool);
  for (const int64_t cols : {1, 5, 31, 32, 33, 48, 288, 4097}) {
    OwnedTensor x(3, cols);
    x.fill(static_cast<uint64_t>(cols), 2.0f);
    OwnedTensor out(3, cols, 5);
    out.with_row_scale();
    const std::vector<float> weight = make_norm(cols);
    const float eps = 1e-5f;
    backend->rms_norm(x.tensor, weight, eps, out.tensor);
    for (int64_t t = 0; t < 3; ++t) {
      double squares = 0;
      for (int64_t j = 0; j < cols; ++j) {
        squares += double{x.at(t, j)} * x.at(t, j);
        EXPECT_EQ(out.at(t, j), x.at(t, j) * weight[static_cast<size_t>(j)]);
      }
      const double expected = 1.0 / std::sqrt(squares / static_cast<double>(cols) + double{eps});
      // A square is rounded as a product, in cols / 32 + 1 lane sums and 5 folds; then mean, eps,
      // root and reciprocal. The root halves what came before it.
      const double roundings = (static_cast<double>(cols) / 32 + 9) / 2 + 2;
      EXPECT_NEAR(out.scales[static_cast<size_t>(t)], expected, expected * roundings * 0x1p-24);
    }
    EXPECT(out.slack_untouched());
  }
}

TEST(rms_norm_of_a_zero_row_is_finite) {
  ThreadPool pool(1);
  const auto backend = make_cpu_backend(pool);
  OwnedTensor x(1, 16);
  std::fill_n(x.tensor.data, 16, 0.0f);
  OwnedTensor out(1, 16);
  out.with_row_scale();
  backend->rms_norm(x.tensor, make_norm(16), 1e-5f, out.tensor);
  EXPECT_NEAR(out.scales[0], 1.0 / std::sqrt(1e-5), 1e-4);
  EXPECT_EQ(out.at(0, 7), 0.0f);
}

TEST(rms_norm_has_the_same_bits_in_place_in_any_company_and_on_any_thread) {
  const int64_t cols = 172, tokens = 300;
  OwnedTensor x(tokens, cols);
  x.fill(4);
  const std::vector<float> weight = make_norm(cols);
  OwnedTensor together(tokens, cols);
  together.with_row_scale();
  ThreadPool one(1);
  make_cpu_backend(one)->rms_norm(x.tensor, weight, 1e-6f, together.tensor);

  ThreadPool three(3);
  const auto backend = make_cpu_backend(three);
  OwnedTensor in_place(x);
  in_place.with_row_scale();
  Tensor source = in_place.tensor;
  source.row_scale = nullptr;
  backend->rms_norm(source, weight, 1e-6f, in_place.tensor);
  EXPECT(test::same_bits(in_place.values, together.values));
  EXPECT(test::same_bits(in_place.scales, together.scales));

  OwnedTensor alone(1, cols);
  alone.with_row_scale();
  backend->rms_norm(x.rows(123, 1), weight, 1e-6f, alone.tensor);
  EXPECT_EQ(alone.scales[0], together.scales[123]);
}

TEST(rms_norm_refuses_shapes_that_do_not_fit) {
  ThreadPool pool(1);
  const auto backend = make_cpu_backend(pool);
  OwnedTensor x(2, 8);
  OwnedTensor out(2, 8);
  EXPECT_ERROR(ErrorCode::kInternal, "row_scale",
               backend->rms_norm(x.tensor, make_norm(8), 1e-5f, out.tensor));
  out.with_row_scale();
  EXPECT_ERROR(ErrorCode::kInternal, "weight",
               backend->rms_norm(x.tensor, make_norm(9), 1e-5f, out.tensor));
}

}  // namespace
}  // namespace subbit
