// Float matrix multiplication. Everything dense stands on it: the teacher's forward pass, the
// factorization, later the tuning.
//
// Contract: every element of C is one chain of fused multiply-adds over k, in order, inside blocks
// of kGemmDepth columns; each block's sum is added to C once. So a result depends on its own row
// and column alone: not on the tile, the thread count, the instruction set or how many rows were
// asked for at once. (Accelerate on Macs is the one exception; see gemm_accelerate.cc.)
//
// Where both operands are bfloat16 and the processor multiplies such pairs itself, twice as many in
// the same time, it does: blocks are 2 * kGemmDepth deep, two products join a sum together in the
// processor's order, and denormal operands and sums count as zero. A result still depends on its
// own row and column alone, but the bits may be another machine's no longer.
#pragma once

#include <cstdint>

#include "base/half.h"
#include "base/matrix.h"
#include "base/thread_pool.h"

namespace subbit {

inline constexpr int64_t kGemmDepth = 256;

enum class Transpose { kNo, kYes };

/// What happens to the old value of C.
enum class Accumulate { kOverwrite, kAdd };

/// One operand: row-major storage of floats, halves or bfloat16 (converted, exactly, as it is
/// packed). With kYes the operand is the transpose of what is stored.
struct GemmOperand {
  enum class Type { kF32, kF16, kBF16 };
  const void* data = nullptr;
  int64_t rows = 0;  // as stored
  int64_t cols = 0;
  int64_t stride = 0;  // elements
  Type type = Type::kF32;
  Transpose transpose = Transpose::kNo;

  GemmOperand() = default;
  GemmOperand(ConstMatrix m, Transpose transpose = Transpose::kNo)  // NOLINT: reads as the matrix
      : data(m.data), rows(m.rows), cols(m.cols), stride(m.stride), transpose(transpose) {}
  GemmOperand(Matrix m, Transpose transpose = Transpose::kNo)  // NOLINT
      : GemmOperand(ConstMatrix(m), transpose) {}
  GemmOperand(MatrixView<const BFloat16> m, Transpose transpose = Transpose::kNo)  // NOLINT
      : data(m.data),
        rows(m.rows),
        cols(m.cols),
        stride(m.stride),
        type(Type::kBF16),
        transpose(transpose) {}
  GemmOperand(MatrixView<BFloat16> m, Transpose transpose = Transpose::kNo)  // NOLINT
      : GemmOperand(MatrixView<const BFloat16>(m), transpose) {}
  int64_t op_rows() const { return transpose == Transpose::kNo ? rows : cols; }
  int64_t op_cols() const { return transpose == Transpose::kNo ? cols : rows; }
};

/// C = op(A) op(B), or C += op(A) op(B). Shapes [m, k] [k, n] -> [m, n]; checked.
/// C must not overlap A or B.
void gemm(const GemmOperand& a, const GemmOperand& b, Matrix c, Accumulate accumulate,
          ThreadPool& pool);

/// The name of the micro-kernel this machine runs ("avx512", "avx2", "neon", "portable"), for
/// reports and benches.
const char* gemm_kernel_name();
/// The same for two operands of bfloat16: "avx512_bf16", or the other where they are widened.
const char* gemm_bfloat16_kernel_name();

}  // namespace subbit
