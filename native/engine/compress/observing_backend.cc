// The sums.
#include "compress/observing_backend.h"

#include <utility>

#include "base/check.h"
#include "linalg/gemm.h"

namespace subbit {

void ObservingBackend::observe(const Linear& linear, Tensor x) {
  inner_.finish();
  CHECK(x.cols == linear.shape.cols);
  Squares& squares = squares_[linear.name];
  squares.sums.resize(static_cast<size_t>(x.cols));
  squares.tokens += x.rows;
  if (wanted_.contains(linear.name)) add_products(linear, x);
  for (int64_t t = 0; t < x.rows; ++t) {
    const float* row = x.data + t * x.stride;
    const double scale = x.row_scale == nullptr ? 1.0 : x.row_scale[t];
    const double weight = scale * scale;
    for (int64_t j = 0; j < x.cols; ++j)
      squares.sums[static_cast<size_t>(j)] += weight * (static_cast<double>(row[j]) * row[j]);
  }
}

/// As floats: a window's sums join the rest at once, so that few are added to many.
void ObservingBackend::add_products(const Linear& linear, Tensor x) {
  Buffer<float>& products = products_[linear.name];
  if (products.size() == 0) products = Buffer<float>(x.cols * x.cols, 0.0f);
  if (scaled_.size() < x.rows * x.cols) scaled_ = Buffer<float>(x.rows * x.cols);
  const Matrix scaled(scaled_.data(), x.rows, x.cols);
  for (int64_t t = 0; t < x.rows; ++t) {
    const float* row = x.data + t * x.stride;
    const float scale = x.row_scale == nullptr ? 1.0f : x.row_scale[t];
    for (int64_t j = 0; j < x.cols; ++j) scaled.at(t, j) = scale * row[j];
  }
  gemm({scaled, Transpose::kYes}, scaled, {products.data(), x.cols, x.cols}, Accumulate::kAdd,
       *pool_);
}

std::map<std::string, Buffer<float>, std::less<>> ObservingBackend::take_covariances() {
  for (auto& [name, products] : products_) {
    const auto tokens = static_cast<float>(squares_.find(name)->second.tokens);
    for (float& product : products.span()) product /= tokens;
  }
  return std::move(products_);
}

void ObservingBackend::linear(const Linear& linear, Tensor x, Tensor y) {
  observe(linear, x);
  inner_.linear(linear, x, y);
}

void ObservingBackend::linear_add(const Linear& linear, Tensor x, Tensor y) {
  observe(linear, x);
  inner_.linear_add(linear, x, y);
}

}  // namespace subbit
