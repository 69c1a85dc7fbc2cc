// rms_norm backwards. With s = (mean(x^2) + eps)^(-1/2): ds/dx_j = -s^3 x_j / n.
#include <algorithm>

#include "backend/tape/tape_operations.h"
#include "base/check.h"
#include "base/wide_loop.h"

namespace subbit {

void rms_norm_backward(const RmsNormGradient& in, Matrix grad_x, std::span<float> grad_weight,
                       ThreadPool& pool) {
  const int64_t cols = in.x.cols;
  CHECK(grad_x.shape() == in.x.shape() && in.grad_out.shape() == in.x.shape());
  CHECK(std::ssize(in.weight) == cols && std::ssize(in.scales) == in.x.rows);
  CHECK(grad_weight.empty() || std::ssize(grad_weight) == cols);
  wide_parallel_for(pool, in.x.rows, 8, [&](Range range) {
    for (int64_t t = range.begin; t < range.end; ++t) {
      const float s = in.scales[static_cast<size_t>(t)];
      const float along =
          -in.grad_scales[static_cast<size_t>(t)] * s * s * s / static_cast<float>(cols);
      const float* x = in.x.row(t);
      const float* g = in.grad_out.row(t);
      float* out = grad_x.row(t);
      for (int64_t j = 0; j < cols; ++j) out[j] += g[j] * in.weight[j] + along * x[j];
    }
  });
  if (grad_weight.empty()) return;
  // Columns are shared out, not rows, so that each sum runs over the tokens in order.
  wide_parallel_for(pool, cols, 64, [&](Range range) {
    for (int64_t t = 0; t < in.x.rows; ++t) {
      const float* x = in.x.row(t);
      const float* g = in.grad_out.row(t);
      for (int64_t j = range.begin; j < range.end; ++j) grad_weight[j] += g[j] * x[j];
    }
  });
}

}  // namespace subbit
