// Plain products, and Adam on every weight.
#include "compress/tune/dense_map.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "linalg/gemm.h"

namespace subbit {
namespace {

constexpr int64_t kWeightsPerTask = 4096;

/// In runs of fixed length, so that threads do not change the sum.
double sum_of_squares(std::span<const float> values, ThreadPool& pool) {
  const int64_t count = std::ssize(values);
  std::vector<double> sums(static_cast<size_t>((count + kWeightsPerTask - 1) / kWeightsPerTask));
  pool.parallel_for(std::ssize(sums), 1, [&](Range range) {
    for (int64_t run = range.begin; run < range.end; ++run) {
      double sum = 0.0;
      const int64_t end = std::min(count, (run + 1) * kWeightsPerTask);
      for (int64_t i = run * kWeightsPerTask; i < end; ++i) {
        const double value = values[static_cast<size_t>(i)];
        sum += value * value;
      }
      sums[static_cast<size_t>(run)] = sum;
    }
  });
  double total = 0.0;
  for (const double sum : sums) total += sum;
  return total;
}

}  // namespace

DenseLinear stacked_linear(const Linear& linear) {
  DenseLinear dense;
  dense.shape = linear.shape;
  dense.values.resize(static_cast<size_t>(linear.shape.count()));
  Matrix rest(dense.values.data(), linear.shape.rows, linear.shape.cols);
  bool any_bias = false;
  for (const Linear::Part& part : linear.parts) {
    const int64_t rows = part.weight->shape().rows;
    part.weight->unpack_rows(0, rest.rows_from(0, rows));
    rest = rest.rows_from(rows, rest.rows - rows);
    CHECK(part.bias.empty() || std::ssize(part.bias) == rows);
    any_bias = any_bias || !part.bias.empty();
    dense.bias.insert(dense.bias.end(), part.bias.begin(), part.bias.end());
    dense.bias.resize(static_cast<size_t>(linear.shape.rows - rest.rows), 0.0f);
  }
  CHECK(rest.rows == 0);
  if (!any_bias) dense.bias.clear();
  return dense;
}

DenseMap::DenseMap(DenseLinear linear, Movement movement, ThreadPool& pool)
    : linear_(std::move(linear)), pool_(pool) {
  if (movement == Movement::kStands) return;
  gradient_ = Buffer<float>(linear_.shape.count(), 0.0f);
  mean_ = Buffer<float>(linear_.shape.count(), 0.0f);
  square_ = Buffer<float>(linear_.shape.count(), 0.0f);
}

void DenseMap::forward(ConstMatrix x, Matrix y, std::span<float>) {
  gemm(x, {linear_.matrix(), Transpose::kYes}, y, Accumulate::kOverwrite, pool_);
}

void DenseMap::backward(ConstMatrix x, ConstMatrix grad_y, std::span<const float>, Matrix grad_x) {
  gemm(grad_y, linear_.matrix(), grad_x, Accumulate::kOverwrite, pool_);
  if (gradient_.size() == 0) return;
  const Shape shape = linear_.shape;
  gemm({grad_y, Transpose::kYes}, x, {gradient_.data(), shape.rows, shape.cols}, Accumulate::kAdd,
       pool_);
}

double DenseMap::gradient_squares() const { return sum_of_squares(gradient_.span(), pool_); }

void DenseMap::step(const AdamStep& adam) {
  if (gradient_.size() == 0) return;
  const auto count = static_cast<double>(linear_.values.size());
  AdamStep own = adam;
  own.rate *= static_cast<float>(std::sqrt(sum_of_squares(linear_.values, pool_) / count));
  pool_.parallel_for(gradient_.size(), kWeightsPerTask, [&](Range range) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      linear_.values[static_cast<size_t>(i)] += adam_delta(gradient_[i], mean_[i], square_[i], own);
      gradient_[i] = 0.0f;
    }
  });
}

void DenseMap::drop_gradient() { std::fill_n(gradient_.data(), gradient_.size(), 0.0f); }

}  // namespace subbit
