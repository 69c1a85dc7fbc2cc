// Rows are shared out among threads, or columns where rows are added up.
#include "compress/tune/row_scaling.h"

#include "base/wide_loop.h"

namespace subbit {
namespace {

constexpr int64_t kRowsPerTask = 8;
constexpr int64_t kColumnsPerTask = 64;

}  // namespace

void scale_columns(ConstMatrix in, std::span<const float> columns, Matrix out, ThreadPool& pool) {
  wide_parallel_for(pool, in.rows, kRowsPerTask, [&](Range range) {
    for (int64_t t = range.begin; t < range.end; ++t) {
      const float* from = in.row(t);
      float* to = out.row(t);
      for (int64_t j = 0; j < in.cols; ++j) to[j] = from[j] * columns[static_cast<size_t>(j)];
    }
  });
}

void narrow(ConstMatrix in, MatrixView<BFloat16> out, ThreadPool& pool) {
  wide_parallel_for(pool, in.rows, kRowsPerTask, [&](Range range) {
    for (int64_t t = range.begin; t < range.end; ++t) {
      const float* from = in.row(t);
      BFloat16* to = out.row(t);
      for (int64_t j = 0; j < in.cols; ++j) to[j] = to_bfloat16(from[j]);
    }
  });
}

void narrow_gradient(ConstMatrix grad_y, std::span<const float> columns, const NarrowGradient& out,
                     ThreadPool& pool) {
  wide_parallel_for(pool, grad_y.rows, kRowsPerTask, [&](Range range) {
    for (int64_t t = range.begin; t < range.end; ++t) {
      const float* from = grad_y.row(t);
      const float* scales = columns.data();
      BFloat16* plain = out.plain.row(t);
      BFloat16* scaled = out.scaled.row(t);
      for (int64_t i = 0; i < grad_y.cols; ++i) plain[i] = to_bfloat16(from[i]);
      for (int64_t i = 0; i < grad_y.cols; ++i) scaled[i] = to_bfloat16(from[i] * scales[i]);
    }
  });
}

void undo_column_scales(ConstMatrix x, std::span<const float> columns,
                        std::span<float> column_gradients, Matrix grad, ThreadPool& pool) {
  // Columns are shared out, not rows, so that each sum runs over the tokens in order.
  wide_parallel_for(pool, x.cols, kColumnsPerTask, [&](Range range) {
    for (int64_t t = 0; t < x.rows; ++t) {
      const float* in = x.row(t);
      const float* g = grad.row(t);
      for (int64_t j = range.begin; j < range.end; ++j)
        column_gradients[static_cast<size_t>(j)] += in[j] * g[j];
    }
  });
  scale_columns(grad, columns, grad, pool);
}

}  // namespace subbit
