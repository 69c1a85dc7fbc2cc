// Views of row-major float matrices. They own nothing.
#pragma once

#include <cstdint>
#include <type_traits>

namespace subbit {

struct Shape {
  int64_t rows = 0;
  int64_t cols = 0;
  bool operator==(const Shape&) const = default;
  int64_t count() const { return rows * cols; }
};

/// Row-major [rows, cols]; element (i, j) lies at data[i * stride + j], stride in elements.
template <typename T>
struct MatrixView {
  T* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;

  MatrixView() = default;
  MatrixView(T* data, int64_t rows, int64_t cols) : MatrixView(data, rows, cols, cols) {}
  MatrixView(T* data, int64_t rows, int64_t cols, int64_t stride)
      : data(data), rows(rows), cols(cols), stride(stride) {}
  template <typename U>
    requires std::is_convertible_v<U*, T*>
  MatrixView(const MatrixView<U>& other)  // NOLINT: a mutable view is a const view
      : data(other.data), rows(other.rows), cols(other.cols), stride(other.stride) {}

  T* row(int64_t i) const { return data + i * stride; }
  T& at(int64_t i, int64_t j) const { return data[i * stride + j]; }
  Shape shape() const { return {rows, cols}; }
  MatrixView rows_from(int64_t first, int64_t count) const {
    return {row(first), count, cols, stride};
  }
  MatrixView cols_from(int64_t first, int64_t count) const {
    return {data + first, rows, count, stride};
  }
};

using Matrix = MatrixView<float>;
using ConstMatrix = MatrixView<const float>;

}  // namespace subbit
