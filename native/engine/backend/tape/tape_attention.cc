// attention backwards, one head after another. With P = softmax(q k^T / sqrt(d)) and out = P v:
//
//   dv = P^T dout;  dP = dout v^T;  dS = P (dP - rowsum(dP P));  dq = dS k / sqrt(d);  dk = dS^T q
//   / sqrt(d)
#include <algorithm>
#include <cmath>

#include "backend/tape/tape_operations.h"
#include "base/check.h"
#include "linalg/exponential.h"
#include "linalg/gemm.h"

namespace subbit {
namespace {

/// Row t of `scores` becomes softmax over 0..t, and zero beyond.
void causal_softmax(float* row, int64_t t, int64_t tokens) {
  const int64_t count = t + 1;
  const float largest = *std::max_element(row, row + count);
  Float4 sums = {};
  for (int64_t p = 0; p < count; p += 4) {
    const int64_t some = std::min<int64_t>(4, count - p);
    const Float4 powers = exponential(load_some(row + p, some) - largest);
    store_some(row + p, powers, some);
    sums += load_some(row + p, some);
  }
  const float scale = 1.0f / ((sums[0] + sums[2]) + (sums[1] + sums[3]));
  for (int64_t p = 0; p < count; ++p) row[p] *= scale;
  std::fill(row + count, row + tokens, 0.0f);
}

/// grad := weights * (grad - sum(grad * weights)) * scale, row by row.
void softmax_backward(ConstMatrix weights, Matrix grad, float scale, ThreadPool& pool) {
  pool.parallel_for(grad.rows, 16, [&](Range range) {
    for (int64_t t = range.begin; t < range.end; ++t) {
      const float* p = weights.row(t);
      float* g = grad.row(t);
      float mean = 0.0f;
      for (int64_t i = 0; i <= t; ++i) mean += g[i] * p[i];
      for (int64_t i = 0; i < grad.cols; ++i) g[i] = p[i] * (g[i] - mean) * scale;
    }
  });
}

}  // namespace

void attention_backward(const AttentionGradient& in, Matrix grad_q, Matrix grad_k, Matrix grad_v,
                        Buffer<float>& scratch, ThreadPool& pool) {
  const int64_t tokens = in.q.rows;
  const int64_t width = in.shape.head_dim;
  CHECK(in.q.cols == in.shape.heads * width && in.k.cols == in.shape.kv_heads * width);
  CHECK(in.k.rows == tokens && in.v.rows == tokens && in.grad_out.shape() == in.q.shape());
  if (scratch.size() < 2 * tokens * tokens) scratch = Buffer<float>(2 * tokens * tokens);
  const Matrix weights(scratch.data(), tokens, tokens);
  const Matrix grad(scratch.data() + tokens * tokens, tokens, tokens);
  const float scale = 1.0f / std::sqrt(static_cast<float>(width));
  const int64_t group = in.shape.heads / in.shape.kv_heads;
  for (int64_t head = 0; head < in.shape.heads; ++head) {
    const auto own = [&](auto m) { return m.cols_from(head * width, width); };
    const auto shared = [&](auto m) { return m.cols_from(head / group * width, width); };
    gemm(own(in.q), {shared(in.k), Transpose::kYes}, weights, Accumulate::kOverwrite, pool);
    pool.parallel_for(tokens, 16, [&](Range range) {
      for (int64_t t = range.begin; t < range.end; ++t) {
        float* row = weights.row(t);
        for (int64_t p = 0; p <= t; ++p) row[p] *= scale;
        causal_softmax(row, t, tokens);
      }
    });
    gemm({weights, Transpose::kYes}, own(in.grad_out), shared(grad_v), Accumulate::kAdd, pool);
    gemm(own(in.grad_out), {shared(in.v), Transpose::kYes}, grad, Accumulate::kOverwrite, pool);
    softmax_backward(weights, grad, scale, pool);
    gemm(grad, shared(in.k), own(grad_q), Accumulate::kAdd, pool);
    gemm({grad, Transpose::kYes}, own(in.q), shared(grad_k), Accumulate::kAdd, pool);
  }
}

}  // namespace subbit
