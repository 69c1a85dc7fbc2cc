// What every tuned map does to the rows that pass through it: scales of columns forwards and
// backwards, and half as wide values.
#pragma once

#include <cstdint>
#include <span>

#include "base/buffer.h"
#include "base/half.h"
#include "base/matrix.h"
#include "base/thread_pool.h"

namespace subbit {

/// The buffer's memory as a matrix, made larger where it does not do.
template <typename T>
MatrixView<T> grow(Buffer<T>& buffer, int64_t rows, int64_t cols) {
  if (buffer.size() < rows * cols) buffer = Buffer<T>(rows * cols);
  return {buffer.data(), rows, cols};
}

/// out = in * diag(columns); `out` may be `in`.
void scale_columns(ConstMatrix in, std::span<const float> columns, Matrix out, ThreadPool& pool);

void narrow(ConstMatrix in, MatrixView<BFloat16> out, ThreadPool& pool);

/// A gradient of y as both its uses want it: plain, for the weights, and times diag(columns), for
/// the input.
struct NarrowGradient {
  MatrixView<BFloat16> plain;
  MatrixView<BFloat16> scaled;
};
void narrow_gradient(ConstMatrix grad_y, std::span<const float> columns, const NarrowGradient& out,
                     ThreadPool& pool);

/// `grad` is that of x * diag(columns), and becomes that of x; the columns' own is added to
/// `column_gradients`.
void undo_column_scales(ConstMatrix x, std::span<const float> columns,
                        std::span<float> column_gradients, Matrix grad, ThreadPool& pool);

}  // namespace subbit
