// swiglu on the CPU against doubles, in place, at the ends of silu.
#include <cmath>
#include <limits>

#include "backend/cpu/cpu_backend.h"
#include "tensors.h"

namespace subbit {
namespace {

using test::OwnedTensor;

double swiglu_reference(double gate, double up) { return gate / (1.0 + std::exp(-gate)) * up; }

TEST(swiglu_is_silu_of_the_gate_times_up) {
  ThreadPool pool(2);
  const auto backend = make_cpu_backend(pool);
  for (const int64_t cols : {1, 2, 3, 4, 5, 172, 1023, 1024, 1025, 3000}) {
    OwnedTensor gate(3, cols, 1);
    gate.fill(8, 5.0f);
    OwnedTensor up(3, cols, 2);
    up.fill(9);
    OwnedTensor out(3, cols);
    backend->swiglu(gate.tensor, up.tensor, out.tensor);
    for (int64_t t = 0; t < 3; ++t) {
      for (int64_t j = 0; j < cols; ++j) {
        const double expected = swiglu_reference(gate.at(t, j), up.at(t, j));
        // exp 2 ulp (4 half ulps), then a sum, a quotient and a product, each rounded.
        EXPECT_NEAR(out.at(t, j), expected, 8 * 0x1p-24 * std::fabs(expected) + 1e-36);
      }
    }
    EXPECT(out.slack_untouched());
  }
}

TEST(swiglu_is_calm_at_the_ends_of_silu_and_passes_nan_on) {
  ThreadPool pool(1);
  const auto backend = make_cpu_backend(pool);
  OwnedTensor gate(1, 6);
  OwnedTensor up(1, 6);
  const float values[] = {1000.0f, -1000.0f, 3e38f,
                          -3e38f,  0.0f,     std::numeric_limits<float>::quiet_NaN()};
  for (int64_t j = 0; j < 6; ++j) gate.at(0, j) = values[j], up.at(0, j) = 0.5f;
  backend->swiglu(gate.tensor, up.tensor, gate.tensor);
  EXPECT_EQ(gate.at(0, 0), 500.0f);
  EXPECT(std::fabs(gate.at(0, 1)) < 1e-30f);
  EXPECT_EQ(gate.at(0, 2), 1.5e38f);
  EXPECT(std::fabs(gate.at(0, 3)) < 4.0f);  // -3e38 e^-88: silu's bound costs this much, at most
  EXPECT_EQ(gate.at(0, 4), 0.0f);
  EXPECT(std::isnan(gate.at(0, 5)));
}

TEST(swiglu_has_the_same_bits_in_place_in_parts_and_on_any_thread) {
  OwnedTensor both(40, 2 * 1030);
  both.fill(10, 3.0f);
  OwnedTensor out(40, 1030);
  ThreadPool one(1);
  make_cpu_backend(one)->swiglu(both.tensor.columns(0, 1030), both.tensor.columns(1030, 1030),
                                out.tensor);
  ThreadPool three(3);
  const auto backend = make_cpu_backend(three);
  OwnedTensor row(1, 1030);
  backend->swiglu(both.rows(17, 1).columns(0, 1030), both.rows(17, 1).columns(1030, 1030),
                  row.tensor);
  for (int64_t j = 0; j < 1030; ++j) EXPECT_EQ(row.at(0, j), out.at(17, j));
  backend->swiglu(both.tensor.columns(0, 1030), both.tensor.columns(1030, 1030),
                  both.tensor.columns(1030, 1030));
  bool same = true;
  for (int64_t t = 0; t < 40; ++t)
    for (int64_t j = 0; j < 1030; ++j) same = same && both.at(t, 1030 + j) == out.at(t, j);
  EXPECT(same);
}

}  // namespace
}  // namespace subbit
