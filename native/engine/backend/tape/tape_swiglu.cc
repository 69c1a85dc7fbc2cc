// swiglu backwards. With p = 1 / (1 + e^-g): silu(g) = g p, silu'(g) = p (1 + g (1 - p)).
#include <algorithm>

#include "backend/tape/tape_operations.h"
#include "base/check.h"
#include "linalg/exponential.h"

namespace subbit {

void swiglu_backward(const SwigluGradient& in, Matrix grad_gate, Matrix grad_up, ThreadPool& pool) {
  const Shape shape = in.gate.shape();
  CHECK(in.up.shape() == shape && in.grad_out.shape() == shape);
  CHECK(grad_gate.shape() == shape && grad_up.shape() == shape);
  pool.parallel_for(shape.rows, 4, [&](Range range) {
    for (int64_t t = range.begin; t < range.end; ++t) {
      for (int64_t j = 0; j < shape.cols; j += 4) {
        const int64_t count = std::min<int64_t>(4, shape.cols - j);
        const auto load = [&](ConstMatrix m) { return load_some(m.row(t) + j, count); };
        const Float4 gate = load(in.gate);
        const Float4 up = load(in.up);
        const Float4 grad = load(in.grad_out);
        const Float4 p = 1.0f / (1.0f + exponential(-gate));
        const Float4 d_gate = grad * up * p * (1.0f + gate * (1.0f - p));
        const Float4 d_up = grad * gate * p;
        store_some(grad_gate.row(t) + j, load(grad_gate) + d_gate, count);
        store_some(grad_up.row(t) + j, load(grad_up) + d_up, count);
      }
    }
  });
}

}  // namespace subbit
