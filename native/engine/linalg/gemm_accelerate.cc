// Macs: the matrix units are reachable through Accelerate alone, and are worth several times what
// NEON can do. Its sums have an order of Apple's choosing: results may depend on the shape of the
// call, never on our thread count. SUBBIT_CBLAS: any CBLAS in Accelerate's place, for the tests.
#if defined(__APPLE__) || defined(SUBBIT_CBLAS)

#include <algorithm>
#include <climits>

#include "base/buffer.h"
#include "base/cblas.h"
#include "base/check.h"
#include "linalg/gemm_kernel.h"
#include "linalg/widen.h"

namespace subbit {
namespace {

// Halves are widened this many lines of C at a time: 11 MB of floats at a depth of 11008.
constexpr int64_t kLines = 256;

/// Lines [first, first + count) of an operand, widened into `scratch` unless they are floats.
/// `lines_stored_as_rows` tells which way the lines run in storage.
GemmOperand float_lines(const GemmOperand& operand, bool lines_stored_as_rows, int64_t first,
                        int64_t count, Buffer<float>& scratch) {
  GemmOperand part = operand;
  (lines_stored_as_rows ? part.rows : part.cols) = count;
  const int64_t offset = lines_stored_as_rows ? first * operand.stride : first;
  part.data = static_cast<const std::byte*>(operand.data) + offset * element_bytes(operand.type);
  if (operand.type == GemmOperand::Type::kF32) return part;
  scratch = Buffer<float>(part.rows * part.cols);
  for (int64_t i = 0; i < part.rows; ++i) {
    const auto* row =
        static_cast<const std::byte*>(part.data) + i * operand.stride * element_bytes(operand.type);
    widen(operand.type, row, part.cols, scratch.data() + i * part.cols);
  }
  part.data = scratch.data();
  part.stride = part.cols;
  part.type = GemmOperand::Type::kF32;
  return part;
}

void multiply(const GemmOperand& a, const GemmOperand& b, Matrix c, Accumulate accumulate) {
  const int64_t largest = std::max({c.rows, c.cols, a.op_cols(), a.stride, b.stride, c.stride});
  CHECK(largest <= INT_MAX);
  cblas_sgemm(kCblasRowMajor, a.transpose == Transpose::kYes ? kCblasTrans : kCblasNoTrans,
              b.transpose == Transpose::kYes ? kCblasTrans : kCblasNoTrans,
              static_cast<int>(c.rows), static_cast<int>(c.cols), static_cast<int>(a.op_cols()),
              1.0f, static_cast<const float*>(a.data), static_cast<int>(a.stride),
              static_cast<const float*>(b.data), static_cast<int>(b.stride),
              accumulate == Accumulate::kAdd ? 1.0f : 0.0f, c.data, static_cast<int>(c.stride));
}

}  // namespace

void gemm_accelerate(const GemmOperand& a, const GemmOperand& b, Matrix c, Accumulate accumulate) {
  const int64_t row_step = a.type == GemmOperand::Type::kF32 ? c.rows : kLines;
  const int64_t column_step = b.type == GemmOperand::Type::kF32 ? c.cols : kLines;
  Buffer<float> left_scratch;
  Buffer<float> right_scratch;
  for (int64_t j = 0; j < c.cols; j += column_step) {
    const int64_t columns = std::min(column_step, c.cols - j);
    const GemmOperand right =
        float_lines(b, b.transpose == Transpose::kYes, j, columns, right_scratch);
    for (int64_t i = 0; i < c.rows; i += row_step) {
      const int64_t rows = std::min(row_step, c.rows - i);
      const GemmOperand left = float_lines(a, a.transpose == Transpose::kNo, i, rows, left_scratch);
      multiply(left, right, c.rows_from(i, rows).cols_from(j, columns), accumulate);
    }
  }
}

}  // namespace subbit

#endif  // __APPLE__ || SUBBIT_CBLAS
