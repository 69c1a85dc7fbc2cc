// What goes into the streams between blocks comes out again, huge tokens and all.
#include "compress/tune/hidden_states.h"

#include <cmath>
#include <vector>

#include "base/rng.h"
#include "support/test.h"

namespace subbit {
namespace {

TEST(hidden_states_come_back_to_three_digits_whatever_their_size) {
  const std::vector<int64_t> lengths = {3, 1, 40};
  constexpr int64_t kWidth = 37;
  ThreadPool pool(2);
  HiddenStates states(lengths, kWidth);
  EXPECT_EQ(states.windows(), size_t{3});
  EXPECT_EQ(states.tokens(), 44);
  EXPECT_EQ(states.longest(), 40);
  Rng rng(1);
  std::vector<std::vector<float>> written;
  for (size_t w = 0; w < lengths.size(); ++w) {
    std::vector<float>& values = written.emplace_back();
    for (int64_t t = 0; t < lengths[w]; ++t) {
      // One token in five is as large as no half can be, one as small.
      const float size = t % 5 == 1 ? 1e9f : t % 5 == 3 ? 1e-12f : 1.0f;
      for (int64_t j = 0; j < kWidth; ++j) values.push_back(size * rng.normal());
    }
    values[5] = 0.0f;
    states.write(w, {values.data(), lengths[w], kWidth}, pool);
  }
  for (size_t w = 0; w < lengths.size(); ++w) {
    std::vector<float> read(written[w].size());
    states.read(w, {read.data(), lengths[w], kWidth}, pool);
    for (int64_t t = 0; t < lengths[w]; ++t) {
      float largest = 0;
      for (int64_t j = 0; j < kWidth; ++j)
        largest = std::max(largest, std::fabs(written[w][t * kWidth + j]));
      for (int64_t j = 0; j < kWidth; ++j) {
        const float value = written[w][t * kWidth + j];
        // A half is within 2^-12 of a normal value; the least normal is 2^-29 of the largest.
        EXPECT_NEAR(read[t * kWidth + j], value, 0x1p-11 * std::fabs(value) + 0x1p-39 * largest);
      }
    }
  }
}

TEST(a_hidden_state_that_is_not_finite_stays_so) {
  const std::vector<int64_t> lengths = {1};
  ThreadPool pool(1);
  HiddenStates states(lengths, 2);
  std::vector<float> row = {1.0f, INFINITY};
  states.write(0, {row.data(), 1, 2}, pool);
  states.read(0, {row.data(), 1, 2}, pool);
  EXPECT(!std::isfinite(row[1]));
}

}  // namespace
}  // namespace subbit
