// An embedding that learns: it begins as it is stored, moves against its gradient and nowhere else,
// and what is written is what was multiplied by.
#include "compress/tune/tuned_end.h"

#include <cmath>
#include <memory>
#include <vector>

#include "base/rng.h"
#include "compress/tune/student.h"
#include "formats/registry.h"
#include "support/test.h"

namespace subbit {
namespace {

/// A random matrix, as floats and as groups of `bits`.
struct Ends {
  Ends(Shape shape, int bits) : shape(shape), coding(*find_group_coding(bits)) {
    Rng rng(7);
    for (int64_t i = 0; i < shape.count(); ++i) values.push_back(0.1f * rng.normal());
    // A group of zeros has a scale of zero.
    for (int64_t j = 0; j < std::min<int64_t>(32, shape.cols); ++j) values[j] = 0.0f;
    bytes = pack_groups(coding, {values.data(), shape.rows, shape.cols});
    const TensorView view{
        "w", DType::kF32, {shape.rows, shape.cols}, std::as_bytes(std::span(values))};
    original = find_format("dense")->view(view, shape);
  }
  EndStart start() const { return {&coding, bytes, original.get(), true, true}; }
  std::vector<float> read(std::span<const std::byte> stored) const {
    const TensorView view{"w", DType::kU8, {std::ssize(stored)}, stored};
    std::vector<float> out(values.size());
    find_format(coding.name)
        ->view(view, shape)
        ->unpack_rows(0, {out.data(), shape.rows, shape.cols});
    return out;
  }
  std::vector<float> look_up(const TunedEnd& end) const {
    std::vector<int32_t> rows;
    for (int64_t i = 0; i < shape.rows; ++i) rows.push_back(static_cast<int32_t>(i));
    std::vector<float> out(values.size());
    end.look_up(rows, {out.data(), shape.rows, shape.cols});
    return out;
  }

  Shape shape;
  const GroupCoding& coding;
  std::vector<float> values;
  std::vector<std::byte> bytes;
  std::unique_ptr<Weight> original;
};

AdamStep step_of(float rate) {
  AdamStep adam;
  adam.rate = rate;
  adam.gradient_scale = 1.0f;
  return adam;
}

const std::vector<Shape> kShapes = {{5, 64}, {3, 288}, {7, 33}, {4, 1}};

TEST(an_end_begins_as_it_is_stored_and_is_written_as_it_is_read) {
  ThreadPool pool(2);
  for (const int bits : {2, 3, 4, 8}) {
    for (const Shape shape : kShapes) {
      const Ends ends(shape, bits);
      TunedEnd end(ends.start(), pool);
      EXPECT(ends.look_up(end) == ends.read(ends.bytes));
      EXPECT(end.bytes() == ends.bytes);
      // Far enough to change most codes.
      Rng rng(3);
      std::vector<float> gradient(static_cast<size_t>(2 * shape.cols));
      const std::vector<int32_t> rows = {0, 2};
      for (int step = 0; step < 5; ++step) {
        for (float& g : gradient) g = rng.normal();
        end.add_gradient(rows, {gradient.data(), 2, shape.cols});
        end.step(step_of(1.0f));
      }
      EXPECT(shape.cols == 1 || end.bytes() != ends.bytes);
      EXPECT(ends.look_up(end) == ends.read(end.bytes()));
    }
  }
}

TEST(an_end_moves_down_its_gradient_in_the_rows_that_were_met_and_in_no_other) {
  ThreadPool pool(2);
  const Ends ends({6, 64}, 4);
  TunedEnd end(ends.start(), pool);
  const std::vector<float> before = ends.look_up(end);
  const std::vector<int32_t> rows = {4, 1};
  std::vector<float> gradient(128, 1.0f);
  std::fill_n(gradient.data() + 64, 64, -1.0f);  // of row 1
  end.add_gradient(rows, {gradient.data(), 2, 64});
  // Adam's first step is sqrt(1 - beta2) / (1 - beta1) times the rate, uncorrected: the rate.
  end.step(step_of(2.0f));
  const std::vector<float> after = ends.look_up(end);
  for (int64_t j = 0; j < 64; ++j) {
    for (const int64_t still : {0, 2, 3, 5})
      EXPECT_EQ(after[still * 64 + j], before[still * 64 + j]);
    EXPECT(after[4 * 64 + j] <= before[4 * 64 + j]);
    EXPECT(after[64 + j] >= before[64 + j]);
  }
  EXPECT(after != before);
  end.step(step_of(2.0f));  // nothing was met since
  EXPECT(ends.look_up(end) == after);
}

TEST(a_row_that_comes_twice_adds_its_gradients_on_any_number_of_threads) {
  const Ends ends({6, 96}, 4);
  const std::vector<int32_t> rows = {3, 0, 3, 5, 3};
  Rng rng(11);
  std::vector<float> gradient(static_cast<size_t>(5 * 96));
  for (float& g : gradient) g = rng.normal();
  double expected = 0;
  GroupCodes stored = read_groups(ends.coding, ends.shape, ends.bytes);
  for (const int64_t row : {0, 3, 5}) {
    for (int64_t j = 0; j < 96; ++j) {
      double sum = 0;
      for (size_t i = 0; i < rows.size(); ++i)
        if (rows[i] == row) sum += gradient[i * 96 + static_cast<size_t>(j)];
      sum *= stored.scales[static_cast<size_t>(row * stored.groups + j / stored.group)];
      expected += sum * sum;
    }
  }
  std::vector<std::byte> first;
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    TunedEnd end(ends.start(), pool);
    end.add_gradient(rows, {gradient.data(), 5, 96});
    EXPECT_NEAR(end.gradient_squares(), expected, 1e-5 * expected);
    end.drop_gradient();
    EXPECT_EQ(end.gradient_squares(), 0.0);
    end.add_gradient(rows, {gradient.data(), 5, 96});
    EXPECT_NEAR(end.gradient_squares(), expected, 1e-5 * expected);
    end.step(step_of(3.0f));
    if (first.empty()) first = end.bytes();
    EXPECT(end.bytes() == first);
  }
}

TEST(a_group_of_zeros_stays_one_and_codes_stay_inside_their_range) {
  ThreadPool pool(1);
  for (const int bits : {2, 3, 4, 8}) {
    const Ends ends({2, 64}, bits);
    TunedEnd end(ends.start(), pool);
    const std::vector<int32_t> rows = {0, 1};
    const std::vector<float> gradient(128, -1.0f);
    for (int step = 0; step < 300; ++step) {
      end.add_gradient(rows, {gradient.data(), 2, 64});
      end.step(step_of(1.0f));
    }
    const std::vector<std::byte> written = end.bytes();
    const GroupCodes now = read_groups(ends.coding, ends.shape, written);
    const GroupCodes was = read_groups(ends.coding, ends.shape, ends.bytes);
    EXPECT(now.scales == was.scales);
    for (size_t i = 0; i < now.codes.size(); ++i) {
      const float scale = now.scales[i / 64];
      // Against a gradient of -1 a weight grows: to the last code, where its scale is positive.
      if (scale != 0.0f)
        EXPECT_EQ(int(now.codes[i]), scale > 0.0f ? ends.coding.code_max : ends.coding.code_min);
    }
    EXPECT(ends.look_up(end) == ends.read(written));
  }
}

/// d loss / d row is the sum over tokens of the logit's gradient times the input.
TEST(a_head_learns_from_the_columns_that_are_named_and_not_from_the_drawn_ones) {
  ThreadPool pool(2);
  const Ends ends({6, 64}, 4);
  TunedEnd end(ends.start(), pool);
  HeadMap head(*ends.original, pool, &end);
  HeadColumns columns;
  columns.tokens = {4, 1, 5};
  columns.named = 2;
  head.choose(columns);
  constexpr int64_t kTokens = 3;
  Rng rng(5);
  std::vector<float> x(kTokens * 64);
  std::vector<float> grad_y(kTokens * 3);
  for (float& value : x) value = rng.normal();
  for (float& value : grad_y) value = rng.normal();
  std::vector<float> grad_x(x.size());
  head.backward({x.data(), kTokens, 64}, {grad_y.data(), kTokens, 3}, {},
                {grad_x.data(), kTokens, 64});
  const std::vector<float> before = ends.look_up(end);
  const GroupCodes stored = read_groups(ends.coding, ends.shape, ends.bytes);
  double squares = 0;
  std::vector<double> gradient(128);
  for (int64_t c = 0; c < 2; ++c) {
    for (int64_t j = 0; j < 64; ++j) {
      for (int64_t t = 0; t < kTokens; ++t)
        gradient[c * 64 + j] += double{grad_y[t * 3 + c]} * x[t * 64 + j];
      const double own = gradient[c * 64 + j] * stored.scales[columns.tokens[c]];
      squares += own * own;
    }
  }
  EXPECT_NEAR(end.gradient_squares(), squares, 1e-5 * squares);
  end.step(step_of(3.0f));
  const std::vector<float> after = ends.look_up(end);
  for (int64_t j = 0; j < 64; ++j) {
    for (const int64_t still : {0, 2, 3, 5})
      EXPECT_EQ(after[still * 64 + j], before[still * 64 + j]);
    for (int64_t c = 0; c < 2; ++c) {
      const int64_t at = columns.tokens[c] * 64 + j;
      EXPECT((after[at] - before[at]) * gradient[c * 64 + j] <= 0);
    }
  }
}

}  // namespace
}  // namespace subbit
