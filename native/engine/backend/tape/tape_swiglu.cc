// swiglu backwards. With p = 1 / (1 + e^-g): silu(g) = g p, silu'(g) = p (1 + g (1 - p)).
#include "backend/tape/tape_operations.h"
#include "base/check.h"
#include "base/wide_loop.h"
#include "linalg/exponential.h"

namespace subbit {

void swiglu_backward(const SwigluGradient& in, Matrix grad_gate, Matrix grad_up, ThreadPool& pool) {
  const Shape shape = in.gate.shape();
  CHECK(in.up.shape() == shape && in.grad_out.shape() == shape);
  CHECK(grad_gate.shape() == shape && grad_up.shape() == shape);
  wide_parallel_for(pool, shape.rows, 4, [&](Range range) {
    for (int64_t t = range.begin; t < range.end; ++t) {
      const float* gate = in.gate.row(t);
      const float* up = in.up.row(t);
      const float* grad = in.grad_out.row(t);
      float* to_gate = grad_gate.row(t);
      float* to_up = grad_up.row(t);
      for (int64_t j = 0; j < shape.cols; ++j) {
        const float p = 1.0f / (1.0f + exponential(-gate[j]));
        const float along = grad[j] * p;
        to_gate[j] += along * up[j] * (1.0f + gate[j] * (1.0f - p));
        to_up[j] += along * gate[j];
      }
    }
  });
}

}  // namespace subbit
