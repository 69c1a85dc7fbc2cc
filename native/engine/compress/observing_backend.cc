// The one sum.
#include "compress/observing_backend.h"

#include "base/check.h"

namespace subbit {

void ObservingBackend::observe(const Linear& linear, Tensor x) {
  inner_.finish();
  CHECK(x.cols == linear.shape.cols);
  Squares& squares = squares_[linear.name];
  squares.sums.resize(static_cast<size_t>(x.cols));
  squares.tokens += x.rows;
  for (int64_t t = 0; t < x.rows; ++t) {
    const float* row = x.data + t * x.stride;
    const double scale = x.row_scale == nullptr ? 1.0 : x.row_scale[t];
    const double weight = scale * scale;
    for (int64_t j = 0; j < x.cols; ++j)
      squares.sums[static_cast<size_t>(j)] += weight * (static_cast<double>(row[j]) * row[j]);
  }
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
