// rms_norm: one product per element; the reciprocal root mean square stays beside the row, so that
// what enters a linear does not depend on how the squares were summed.
#include <algorithm>
#include <cmath>

#include "backend/cpu/cpu_operations.h"
#include "base/check.h"
#include "linalg/dense_dot_kernel.h"

namespace subbit {
namespace {

/// The squares in the order of dense_dot's lanes: a row times itself.
float sum_of_squares(std::span<const float> x) {
  float sum = 0.0f;
  dense_dot_kernels().front().run({GemmOperand::Type::kF32, x.data(), 0, 1, x, &sum});
  return sum;
}

constexpr int64_t kPieceElements = 1 << 14;

}  // namespace

void cpu_rms_norm(Tensor x, std::span<const float> weight, float eps, Tensor out,
                  ThreadPool& pool) {
  CHECK(x.rows == out.rows && x.cols == out.cols && x.cols == std::ssize(weight));
  CHECK(x.cols > 0 && x.row_scale == nullptr && out.row_scale != nullptr);
  const int64_t cols = x.cols;
  pool.parallel_for(x.rows, std::max<int64_t>(1, kPieceElements / cols), [&](Range range) {
    for (int64_t t = range.begin; t < range.end; ++t) {
      const float* in = x.data + t * x.stride;
      float* row = out.data + t * out.stride;
      const float mean = sum_of_squares({in, static_cast<size_t>(cols)}) / static_cast<float>(cols);
      // Root and division are rounded correctly by IEEE 754: the same on every machine.
      out.row_scale[t] = 1.0f / std::sqrt(mean + eps);
      for (int64_t j = 0; j < cols; ++j) row[j] = in[j] * weight[static_cast<size_t>(j)];
    }
  });
}

}  // namespace subbit
