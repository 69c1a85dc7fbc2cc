// The path that Macs take: the same calls of cblas_sgemm, made to another CBLAS where there is one.
#include <cmath>
#include <cstring>
#include <vector>

#include "base/rng.h"
#include "linalg/gemm.h"
#include "linalg/gemm_kernel.h"
#include "support/test.h"

#if defined(SUBBIT_CBLAS)
// Compiled here and not in the engine, which has no CBLAS to link outside Macs.
#include "linalg/gemm_accelerate.cc"  // NOLINT
#endif

namespace subbit {
namespace {

#if defined(SUBBIT_CBLAS) || defined(__APPLE__)

using Type = GemmOperand::Type;

struct Stored {
  GemmOperand operand;
  std::vector<float> floats;  // op(matrix), row-major [rows, cols]
  std::vector<std::byte> bytes;
};

/// Random values in the given type and transposition, with slack between rows.
Stored stored(Shape op, Type type, Transpose transpose, uint64_t seed) {
  const bool flip = transpose == Transpose::kYes;
  const int64_t rows = flip ? op.cols : op.rows;
  const int64_t cols = flip ? op.rows : op.cols;
  const int64_t stride = cols + 3;
  Stored out;
  out.floats.resize(static_cast<size_t>(op.count()));
  out.bytes.assign(static_cast<size_t>(rows * stride * element_bytes(type)), std::byte{0xFF});
  Rng rng(seed);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < cols; ++j) {
      float value = rng.normal();
      std::byte* at = out.bytes.data() + (i * stride + j) * element_bytes(type);
      if (type == Type::kF32) {
        std::memcpy(at, &value, 4);
      } else if (type == Type::kF16) {
        const Half half = to_half(value);
        std::memcpy(at, &half, 2);
        value = to_float(half);
      } else {
        const BFloat16 half = to_bfloat16(value);
        std::memcpy(at, &half, 2);
        value = to_float(half);
      }
      out.floats[static_cast<size_t>(flip ? j * op.cols + i : i * op.cols + j)] = value;
    }
  }
  out.operand.data = out.bytes.data();
  out.operand.rows = rows;
  out.operand.cols = cols;
  out.operand.stride = stride;
  out.operand.type = type;
  out.operand.transpose = transpose;
  return out;
}

void expect_product(int64_t m, int64_t n, int64_t k, Type left, Type right, Transpose a_order,
                    Transpose b_order, Accumulate accumulate) {
  const Stored a = stored({m, k}, left, a_order, 1);
  const Stored b = stored({k, n}, right, b_order, 2);
  std::vector<float> c(static_cast<size_t>(m * n), 0.5f);
  gemm_accelerate(a.operand, b.operand, Matrix(c.data(), m, n), accumulate);
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = accumulate == Accumulate::kAdd ? 0.5 : 0.0;
      double size = std::fabs(sum);
      for (int64_t x = 0; x < k; ++x) {
        const double term = static_cast<double>(a.floats[static_cast<size_t>(i * k + x)]) *
                            b.floats[static_cast<size_t>(x * n + j)];
        sum += term;
        size += std::fabs(term);
      }
      // k roundings of products and k of sums, each at most 2^-24 of the magnitudes' sum.
      EXPECT_NEAR(c[static_cast<size_t>(i * n + j)], sum,
                  size * static_cast<double>(k + 1) * 0x1p-24);
    }
  }
}

TEST(accelerates_calls_give_the_product_for_every_type_order_and_shape) {
  for (const Type type : {Type::kF32, Type::kF16, Type::kBF16}) {
    for (const Transpose order : {Transpose::kNo, Transpose::kYes}) {
      for (const Accumulate accumulate : {Accumulate::kOverwrite, Accumulate::kAdd}) {
        expect_product(1, 1, 1, type, Type::kF32, order, Transpose::kYes, accumulate);
        expect_product(3, 7, 33, Type::kF32, type, Transpose::kNo, order, accumulate);
        // Halves are widened 256 lines at a time: a run and one line more.
        expect_product(257, 5, 9, type, type, order, Transpose::kNo, accumulate);
        expect_product(5, 513, 9, Type::kF32, type, order, order, accumulate);
      }
    }
  }
}

#else

TEST(accelerates_calls_give_the_product_for_every_type_order_and_shape) {
  test::skip("no CBLAS on this machine (Debian: libopenblas-dev)");
}

#endif

}  // namespace
}  // namespace subbit
