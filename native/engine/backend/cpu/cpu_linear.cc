// linear and linear_add: each part's own kernels, on codes quantized once for all parts that want
// them.
#include <algorithm>

#include "backend/cpu/cpu_operations.h"
#include "base/check.h"

namespace subbit {
namespace {

/// y = (or +=) W x + bias for one part; y is its columns of the stack's output.
void multiply_part(const Linear::Part& part, const LinearInput& in, Matrix y, OutputMode mode,
                   CpuScratch& scratch, ThreadPool& pool) {
  CHECK(part.bias.empty() || std::ssize(part.bias) == y.cols);
  if (part.bias.empty()) return part.weight->multiply(in, y, mode, pool);

  // The bias belongs to W x; only the whole joins the residual stream. Hence the detour for kAdd.
  Matrix product = y;
  if (mode == OutputMode::kAdd) {
    if (scratch.product.size() < y.rows * y.cols) scratch.product = Buffer<float>(y.rows * y.cols);
    product = Matrix(scratch.product.data(), y.rows, y.cols);
  }
  part.weight->multiply(in, product, OutputMode::kOverwrite, pool);
  for (int64_t t = 0; t < y.rows; ++t) {
    const float* from = product.row(t);
    float* to = y.row(t);
    for (int64_t i = 0; i < y.cols; ++i) {
      const float value = from[i] + part.bias[static_cast<size_t>(i)];
      to[i] = mode == OutputMode::kAdd ? to[i] + value : value;
    }
  }
}

}  // namespace

void cpu_linear(const Linear& linear, Tensor x, Tensor y, OutputMode mode, CpuScratch& scratch,
                ThreadPool& pool) {
  CHECK(x.rows == y.rows && x.cols == linear.shape.cols && y.cols == linear.shape.rows);
  CHECK(y.row_scale == nullptr);
  if (x.rows == 0) return;
  LinearInput in{x.matrix(), x.row_scale, nullptr, &scratch.multiply};
  scratch.multiply.loaded = nullptr;
  const bool wants_codes = std::any_of(
      linear.parts.begin(), linear.parts.end(),
      [](const Linear::Part& part) { return part.weight->input_kind() == InputKind::kCodes; });
  if (wants_codes) {
    quantize_rows(x.matrix(), scratch.quantized, pool);
    in.quantized = &scratch.quantized;
  }
  int64_t first = 0;
  for (const Linear::Part& part : linear.parts) {
    const Shape shape = part.weight->shape();
    CHECK(shape.cols == x.cols && first + shape.rows <= y.cols);
    multiply_part(part, in, y.matrix().cols_from(first, shape.rows), mode, scratch, pool);
    first += shape.rows;
  }
  CHECK(first == y.cols);
}

}  // namespace subbit
