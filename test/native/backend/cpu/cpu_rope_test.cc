// rope on the CPU: rotations by absolute position, pairs half a head apart.
#include <cmath>

#include "backend/cpu/cpu_backend.h"
#include "tensors.h"

namespace subbit {
namespace {

using test::OwnedTensor;

RopeTable make_table(int64_t head_dim, int64_t positions) {
  RopeTable table;
  table.half_dim = head_dim / 2;
  table.positions = positions;
  for (int64_t p = 0; p < positions; ++p) {
    for (int64_t i = 0; i < table.half_dim; ++i) {
      const double angle =
          static_cast<double>(p) *
          std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
      table.cosine.push_back(static_cast<float>(std::cos(angle)));
      table.sine.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  return table;
}

TEST(rope_rotates_pairs_half_a_head_apart_by_their_position) {
  ThreadPool pool(2);
  const auto backend = make_cpu_backend(pool);
  for (const int64_t head_dim : {2, 6, 8, 48}) {
    for (const int64_t heads : {1, 3}) {
      const RopeTable table = make_table(head_dim, 20);
      OwnedTensor x(5, heads * head_dim);
      x.fill(6);
      const OwnedTensor before(x);
      backend->rope(table, 11, heads, x.tensor);
      for (int64_t t = 0; t < 5; ++t) {
        for (int64_t h = 0; h < heads; ++h) {
          for (int64_t i = 0; i < head_dim / 2; ++i) {
            const auto at = static_cast<size_t>((11 + t) * head_dim / 2 + i);
            const double c = table.cosine[at], s = table.sine[at];
            const double a = before.at(t, h * head_dim + i);
            const double b = before.at(t, h * head_dim + i + head_dim / 2);
            // Two products and a sum are rounded.
            const double tolerance = 3 * 0x1p-24 * (std::fabs(a) + std::fabs(b));
            EXPECT_NEAR(x.at(t, h * head_dim + i), a * c - b * s, tolerance);
            EXPECT_NEAR(x.at(t, h * head_dim + i + head_dim / 2), b * c + a * s, tolerance);
          }
        }
      }
      EXPECT(x.slack_untouched());
    }
  }
}

TEST(rope_of_a_prompt_does_not_depend_on_where_it_is_cut_or_on_threads) {
  const RopeTable table = make_table(48, 64);
  OwnedTensor whole(64, 96);
  whole.fill(7);
  OwnedTensor cut(whole);
  ThreadPool one(1);
  make_cpu_backend(one)->rope(table, 0, 2, whole.tensor);
  ThreadPool three(3);
  const auto backend = make_cpu_backend(three);
  backend->rope(table, 0, 2, cut.rows(0, 1));
  backend->rope(table, 1, 2, cut.rows(1, 30));
  backend->rope(table, 31, 2, cut.rows(31, 33));
  EXPECT(test::same_bits(whole.values, cut.values));
}

TEST(rope_refuses_positions_beyond_its_table) {
  ThreadPool pool(1);
  const auto backend = make_cpu_backend(pool);
  const RopeTable table = make_table(8, 4);
  OwnedTensor x(2, 8);
  x.fill(1);
  EXPECT_ERROR(ErrorCode::kInternal, "positions", backend->rope(table, 3, 1, x.tensor));
  EXPECT_ERROR(ErrorCode::kInternal, "heads", backend->rope(table, 0, 2, x.tensor));
}

}  // namespace
}  // namespace subbit
