// linear and linear_add on the CPU: parts land in their columns, codes are made once, biases join
// the product before the residual stream does.
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "fake_weight.h"
#include "tensors.h"

namespace subbit {
namespace {

using test::FakeWeight;
using test::OwnedTensor;

struct Stack {
  Linear linear;
  std::vector<const FakeWeight*> weights;

  explicit Stack(int64_t cols) { linear.shape.cols = cols; }
  Stack& add(int64_t rows, InputKind kind, bool with_bias = false) {
    const auto seed = static_cast<uint64_t>(linear.shape.rows + 1);
    auto weight = std::make_unique<FakeWeight>(Shape{rows, linear.shape.cols}, kind, seed);
    weights.push_back(weight.get());
    Linear::Part part;
    part.weight = std::move(weight);
    Rng rng(seed + 100);
    for (int64_t i = 0; with_bias && i < rows; ++i) part.bias.push_back(rng.normal());
    linear.parts.push_back(std::move(part));
    linear.shape.rows += rows;
    return *this;
  }
};

/// Stacks of q, k, v with and without biases, row scales and codes.
void check_linear(Stack& stack, bool scaled, OutputMode mode) {
  const int64_t tokens = 5;
  ThreadPool pool(2);
  const auto backend = make_cpu_backend(pool);
  OwnedTensor x(tokens, stack.linear.shape.cols);
  x.fill(1);
  if (scaled) {
    x.with_row_scale();
    for (size_t t = 0; t < x.scales.size(); ++t) x.scales[t] = 0.5f + static_cast<float>(t);
  }
  OwnedTensor y(tokens, stack.linear.shape.rows);
  y.fill(2);
  const OwnedTensor before(y);
  if (mode == OutputMode::kOverwrite) {
    backend->linear(stack.linear, x.tensor, y.tensor);
  } else {
    backend->linear_add(stack.linear, x.tensor, y.tensor);
  }
  backend->finish();
  EXPECT(y.slack_untouched());

  QuantizedRows codes;
  quantize_rows(x.tensor.matrix(), codes, pool);
  const LinearInput in{x.tensor.matrix(), x.tensor.row_scale, &codes};
  int64_t first = 0;
  for (size_t p = 0; p < stack.weights.size(); ++p) {
    const FakeWeight& weight = *stack.weights[p];
    const std::vector<float>& bias = stack.linear.parts[p].bias;
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t i = 0; i < weight.shape().rows; ++i) {
        float expected = weight.dot(in, t, i);
        if (!bias.empty()) expected = expected + bias[static_cast<size_t>(i)];
        if (mode == OutputMode::kAdd) expected = before.at(t, first + i) + expected;
        EXPECT_EQ(y.at(t, first + i), expected);
      }
    }
    first += weight.shape().rows;
  }
}

TEST(linear_puts_each_part_with_its_bias_into_its_own_columns) {
  for (const auto mode : {OutputMode::kOverwrite, OutputMode::kAdd}) {
    for (const bool scaled : {false, true}) {
      Stack one(48);
      check_linear(one.add(7, InputKind::kFloat), scaled, mode);
      Stack three(33);
      three.add(6, InputKind::kFloat, true)
          .add(2, InputKind::kFloat)
          .add(1, InputKind::kFloat, true);
      check_linear(three, scaled, mode);
      Stack mixed(65);
      mixed.add(4, InputKind::kCodes, true).add(3, InputKind::kFloat).add(5, InputKind::kCodes);
      check_linear(mixed, scaled, mode);
    }
  }
}

TEST(linear_quantizes_its_input_once_for_all_parts_and_only_if_asked) {
  ThreadPool pool(1);
  const auto backend = make_cpu_backend(pool);
  OwnedTensor x(2, 40);
  x.fill(3);
  Stack coded(40);
  coded.add(3, InputKind::kCodes).add(4, InputKind::kCodes);
  OwnedTensor y(2, 7);
  backend->linear(coded.linear, x.tensor, y.tensor);
  EXPECT(coded.weights[0]->codes_seen[0] != nullptr);
  EXPECT_EQ(coded.weights[0]->codes_seen[0], coded.weights[1]->codes_seen[0]);

  // An infinity is an error where codes are made of it, and none of our business elsewhere.
  x.at(1, 39) = std::numeric_limits<float>::infinity();
  EXPECT_ERROR(ErrorCode::kNonFinite, "", backend->linear(coded.linear, x.tensor, y.tensor));
  Stack floats(40);
  floats.add(7, InputKind::kFloat);
  backend->linear(floats.linear, x.tensor, y.tensor);
  EXPECT(floats.weights[0]->codes_seen[0] == nullptr);
  EXPECT(std::isinf(y.at(1, 0)));
}

TEST(linear_refuses_shapes_that_do_not_fit) {
  ThreadPool pool(1);
  const auto backend = make_cpu_backend(pool);
  Stack stack(8);
  stack.add(4, InputKind::kFloat);
  OwnedTensor x(2, 8);
  x.fill(1);
  OwnedTensor narrow(2, 3);
  EXPECT_ERROR(ErrorCode::kInternal, "cols",
               backend->linear(stack.linear, x.tensor, narrow.tensor));
  OwnedTensor y(2, 4);
  stack.linear.shape.rows = 5;
  OwnedTensor wide(2, 5);
  EXPECT_ERROR(ErrorCode::kInternal, "first", backend->linear(stack.linear, x.tensor, wide.tensor));
}

}  // namespace
}  // namespace subbit
