// The GEMM against a double reference, and against its own contract to the bit: one chain of fused
// multiply-adds per element, whatever the kernel, the tile, the threads or the number of rows.
#include "linalg/gemm.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "base/rng.h"
#include "linalg/gemm_kernel.h"
#include "support/test.h"

namespace subbit {
namespace {

using Type = GemmOperand::Type;

/// A stored matrix of any type with slack between its rows, and the floats it stands for.
struct Stored {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;
  Type type = Type::kF32;
  Transpose transpose = Transpose::kNo;
  std::vector<float> floats;
  std::vector<uint16_t> halves;

  GemmOperand operand() const {
    GemmOperand result(ConstMatrix(floats.data(), rows, cols, stride), transpose);
    if (type != Type::kF32) result.data = halves.data();
    result.type = type;
    return result;
  }
  float at(int64_t i, int64_t j) const {
    return floats[static_cast<size_t>(transpose == Transpose::kNo ? i * stride + j
                                                                  : j * stride + i)];
  }
};

struct OperandKind {
  Type type = Type::kF32;
  Transpose transpose = Transpose::kNo;
  int64_t slack = 0;  // stride beyond the columns
};

/// op(matrix) is [rows, cols]; the slack holds NaN, so that reading it would show.
Stored make_operand(Shape op_shape, OperandKind kind, uint64_t seed) {
  Stored m;
  m.type = kind.type;
  m.transpose = kind.transpose;
  m.rows = kind.transpose == Transpose::kNo ? op_shape.rows : op_shape.cols;
  m.cols = kind.transpose == Transpose::kNo ? op_shape.cols : op_shape.rows;
  m.stride = m.cols + kind.slack;
  m.floats.assign(static_cast<size_t>(m.rows * m.stride), std::numeric_limits<float>::quiet_NaN());
  Rng rng(seed);
  for (int64_t i = 0; i < m.rows; ++i) {
    for (int64_t j = 0; j < m.cols; ++j) {
      float& value = m.floats[static_cast<size_t>(i * m.stride + j)];
      value = rng.normal();
      if (kind.type == Type::kF16) value = to_float(to_half(value));
      if (kind.type == Type::kBF16) value = to_float(to_bfloat16(value));
    }
  }
  for (const float value : m.floats)
    m.halves.push_back(kind.type == Type::kF16 ? to_half(value).bits : to_bfloat16(value).bits);
  return m;
}

std::string describe(int64_t m, int64_t n, int64_t k) {
  return std::to_string(m) + " x " + std::to_string(n) + " x " + std::to_string(k);
}

/// Checks gemm() on one shape against doubles. At most k + ceil(k / 256) + 1 roundings touch an
/// element, each of at most 2^-24 of a partial sum, which sum |a||b| + |c| bounds (times 1 + tiny).
void check_against_doubles(const Stored& a, const Stored& b, Accumulate accumulate,
                           ThreadPool& pool) {
  const GemmOperand left = a.operand();
  const GemmOperand right = b.operand();
  const int64_t m = left.op_rows(), n = right.op_cols(), k = left.op_cols();
  const int64_t stride = n + 3;
  std::vector<float> c(static_cast<size_t>(m * stride));
  Rng rng(7);
  for (float& value : c) value = rng.normal();
  const std::vector<float> old = c;
  gemm(left, right, Matrix(c.data(), m, n, stride), accumulate, pool);
  int wrong = 0;
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < stride; ++j) {
      const auto at = static_cast<size_t>(i * stride + j);
      if (j >= n) {
        wrong += c[at] != old[at];
        continue;
      }
      double sum = accumulate == Accumulate::kAdd ? old[at] : 0.0;
      double magnitude = std::fabs(sum);
      for (int64_t l = 0; l < k; ++l) {
        const double product = double{a.at(i, l)} * b.at(l, j);
        sum += product;
        magnitude += std::fabs(product);
      }
      const double roundings = static_cast<double>(k + (k + 255) / 256 + 1);
      wrong += !(std::fabs(c[at] - sum) <= 1.001 * roundings * 0x1p-24 * magnitude);
    }
  }
  if (wrong != 0)
    test::fail(__FILE__, __LINE__,
               describe(m, n, k) + ": " + std::to_string(wrong) + " wrong elements");
}

const std::vector<int64_t> kSizes{1,  2,  5,  6,  7,   15,  16,  17,  31,
                                  32, 33, 63, 65, 172, 255, 256, 257, 288};

TEST(gemm_is_right_for_every_small_and_odd_shape) {
  ThreadPool pool(2);
  for (const int64_t size : kSizes) {
    for (const int64_t p : {1, 13, 33}) {
      for (const int64_t q : {1, 14, 49}) {
        const int64_t shapes[3][3] = {{size, p, q}, {p, size, q}, {p, q, size}};
        for (const auto& [m, n, k] : shapes) {
          const Stored a = make_operand({m, k}, {}, 1);
          const Stored b = make_operand({k, n}, {.transpose = Transpose::kYes}, 2);
          check_against_doubles(a, b, Accumulate::kOverwrite, pool);
        }
      }
    }
  }
}

TEST(gemm_is_right_for_every_type_transpose_stride_and_mode) {
  ThreadPool pool(2);
  const int64_t shapes[][3] = {{1, 1, 1},     {5, 7, 3},      {17, 31, 33},
                               {29, 65, 257}, {100, 48, 300}, {33, 100, 513}};
  for (const auto& [m, n, k] : shapes) {
    for (const Type type_a : {Type::kF32, Type::kF16, Type::kBF16}) {
      for (const Type type_b : {Type::kF32, Type::kF16, Type::kBF16}) {
        for (int flags = 0; flags < 8; ++flags) {
          const auto ta = flags & 1 ? Transpose::kYes : Transpose::kNo;
          const auto tb = flags & 2 ? Transpose::kYes : Transpose::kNo;
          const Stored a = make_operand({m, k}, {type_a, ta, flags}, 3);
          const Stored b = make_operand({k, n}, {type_b, tb, 7 - flags}, 4);
          check_against_doubles(a, b, flags & 4 ? Accumulate::kAdd : Accumulate::kOverwrite, pool);
        }
      }
    }
  }
}

TEST(gemm_is_right_for_shapes_beyond_one_cache_block) {
  ThreadPool pool(3);
  const Stored tall = make_operand({2100, 40}, {}, 5);
  const Stored narrow = make_operand({40, 20}, {}, 6);
  check_against_doubles(tall, narrow, Accumulate::kAdd, pool);
  const Stored flat = make_operand({20, 270}, {.transpose = Transpose::kYes}, 7);
  const Stored wide = make_operand({270, 4100}, {}, 8);
  check_against_doubles(flat, wide, Accumulate::kOverwrite, pool);
}

/// The contract, written down literally.
float contract_element(const Stored& a, const Stored& b, int64_t i, int64_t j, float c,
                       Accumulate accumulate) {
  const int64_t depth = a.operand().op_cols();
  for (int64_t first = 0; first < depth; first += kGemmDepth) {
    float sum = 0.0f;
    for (int64_t k = first; k < std::min(first + kGemmDepth, depth); ++k)
      sum = std::fma(a.at(i, k), b.at(k, j), sum);
    c = first == 0 && accumulate == Accumulate::kOverwrite ? sum : c + sum;
  }
  return c;
}

bool same_bits(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
}

TEST(gemm_kernels_all_produce_the_bits_of_the_contract) {
  const int64_t shapes[][3] = {{1, 1, 1},     {1, 47, 300},  {2, 16, 5},    {3, 33, 31},
                               {6, 12, 256},  {7, 13, 257},  {14, 32, 512}, {15, 31, 288},
                               {16, 24, 600}, {27, 97, 513}, {100, 40, 260}};
  for (const auto& [m, n, k] : shapes) {
    const Stored a = make_operand({m, k}, {.slack = 1}, 11);
    const Stored b = make_operand({k, n}, {Type::kBF16, Transpose::kYes, 2}, 12);
    for (const auto accumulate : {Accumulate::kOverwrite, Accumulate::kAdd}) {
      std::vector<float> expected(static_cast<size_t>(m * n), 0.37f);
      for (int64_t i = 0; i < m * n; ++i) {
        float& value = expected[static_cast<size_t>(i)];
        value = contract_element(a, b, i / n, i % n, value, accumulate);
      }
      for (const GemmKernel* kernel : gemm_kernels()) {
        for (const int threads : {1, 3}) {
          ThreadPool pool(threads);
          std::vector<float> c(static_cast<size_t>(m * n), 0.37f);
          gemm_on(*kernel, a.operand(), b.operand(), Matrix(c.data(), m, n), accumulate, pool);
          int64_t different = 0;
          for (size_t i = 0; i < c.size(); ++i) different += !same_bits(c[i], expected[i]);
          if (different != 0)
            test::fail(__FILE__, __LINE__,
                       std::string(kernel->name) + " " + describe(m, n, k) + ": " +
                           std::to_string(different) + " elements differ");
        }
      }
    }
  }
}

TEST(gemm_row_has_the_same_bits_alone_and_among_many) {
  const int64_t m = 1100, n = 130, k = 700;
  const Stored a = make_operand({m, k}, {}, 21);
  const Stored b = make_operand({k, n}, {Type::kF32, Transpose::kYes, 0}, 22);
  for (const GemmKernel* kernel : gemm_kernels()) {
    ThreadPool pool(2);
    std::vector<float> all(static_cast<size_t>(m * n));
    gemm_on(*kernel, a.operand(), b.operand(), Matrix(all.data(), m, n), Accumulate::kOverwrite,
            pool);
    ThreadPool alone(1);
    for (const int64_t count : {1, 2, 9, 100}) {
      const int64_t first = 1000 - count;
      std::vector<float> some(static_cast<size_t>(count * n));
      GemmOperand rows = a.operand();
      rows.data = a.floats.data() + first * a.stride;
      rows.rows = count;
      gemm_on(*kernel, rows, b.operand(), Matrix(some.data(), count, n), Accumulate::kOverwrite,
              alone);
      EXPECT(std::memcmp(some.data(), all.data() + first * n, some.size() * sizeof(float)) == 0);
    }
  }
}

TEST(a_product_of_bfloat16_has_the_same_bits_on_any_threads_and_for_rows_alone) {
  // Depths around a pair, and around a block of pairs.
  for (const int64_t k : {1, 2, 31, 511, 512, 513, 1100}) {
    const int64_t m = 90, n = 77;
    const Stored a = make_operand({m, k}, {Type::kBF16, Transpose::kNo, 1}, 23);
    const Stored b = make_operand({k, n}, {Type::kBF16, Transpose::kYes, 3}, 24);
    std::vector<float> all(static_cast<size_t>(m * n), 0.37f);
    ThreadPool alone(1);
    gemm(a.operand(), b.operand(), Matrix(all.data(), m, n), Accumulate::kAdd, alone);
    ThreadPool many(3);
    std::vector<float> shared(all.size(), 0.37f);
    gemm(a.operand(), b.operand(), Matrix(shared.data(), m, n), Accumulate::kAdd, many);
    EXPECT(std::memcmp(all.data(), shared.data(), all.size() * sizeof(float)) == 0);
    GemmOperand last = a.operand();
    last.data = a.halves.data() + (m - 3) * a.stride;
    last.rows = 3;
    std::vector<float> some(static_cast<size_t>(3 * n), 0.37f);
    gemm(last, b.operand(), Matrix(some.data(), 3, n), Accumulate::kAdd, many);
    EXPECT(std::memcmp(some.data(), all.data() + (m - 3) * n, some.size() * sizeof(float)) == 0);
  }
}

TEST(a_product_of_signs_and_codes_is_exact) {
  // Integers up to 127, 600 of them: every sum is an integer below 2^24.
  ThreadPool pool(2);
  const int64_t m = 20, n = 50, k = 600;
  Stored a = make_operand({m, k}, {Type::kBF16, Transpose::kNo, 0}, 25);
  Stored b = make_operand({k, n}, {Type::kBF16, Transpose::kYes, 0}, 26);
  for (size_t i = 0; i < a.floats.size(); ++i) {
    a.floats[i] = std::rint(std::clamp(50.0f * a.floats[i], -127.0f, 127.0f));
    a.halves[i] = to_bfloat16(a.floats[i]).bits;
  }
  for (size_t i = 0; i < b.floats.size(); ++i) {
    b.floats[i] = std::copysign(1.0f, b.floats[i]);
    b.halves[i] = to_bfloat16(b.floats[i]).bits;
  }
  std::vector<float> c(static_cast<size_t>(m * n));
  gemm(a.operand(), b.operand(), Matrix(c.data(), m, n), Accumulate::kOverwrite, pool);
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      int64_t sum = 0;
      for (int64_t l = 0; l < k; ++l) sum += static_cast<int64_t>(a.at(i, l) * b.at(l, j));
      EXPECT_EQ(c[static_cast<size_t>(i * n + j)], static_cast<float>(sum));
    }
  }
}

TEST(gemm_over_no_columns_gives_zeros_or_leaves_c_alone) {
  ThreadPool pool(2);
  std::vector<float> c(6, 5.0f);
  const ConstMatrix a(nullptr, 2, 0);
  const ConstMatrix b(nullptr, 0, 3);
  gemm(a, b, Matrix(c.data(), 2, 3), Accumulate::kAdd, pool);
  for (const float value : c) EXPECT_EQ(value, 5.0f);
  gemm(a, b, Matrix(c.data(), 2, 3), Accumulate::kOverwrite, pool);
  for (const float value : c) EXPECT_EQ(value, 0.0f);
  gemm(ConstMatrix(nullptr, 0, 4), ConstMatrix(nullptr, 4, 0), Matrix(nullptr, 0, 0),
       Accumulate::kOverwrite, pool);
}

TEST(gemm_keeps_a_nan_in_its_own_row_and_column) {
  ThreadPool pool(1);
  Stored a = make_operand({15, 40}, {}, 31);
  const Stored b = make_operand({40, 33}, {}, 32);
  a.floats[3 * 40 + 17] = std::numeric_limits<float>::quiet_NaN();
  for (const GemmKernel* kernel : gemm_kernels()) {
    std::vector<float> c(15 * 33);
    gemm_on(*kernel, a.operand(), b.operand(), Matrix(c.data(), 15, 33), Accumulate::kOverwrite,
            pool);
    for (size_t i = 0; i < c.size(); ++i) EXPECT_EQ(std::isnan(c[i]), i / 33 == 3);
  }
}

TEST(gemm_refuses_shapes_that_do_not_fit) {
  ThreadPool pool(1);
  std::vector<float> x(100);
  const ConstMatrix a(x.data(), 3, 4);
  EXPECT_ERROR(ErrorCode::kInternal, "op_cols",
               gemm(a, ConstMatrix(x.data(), 5, 2), Matrix(x.data() + 50, 3, 2),
                    Accumulate::kOverwrite, pool));
  EXPECT_ERROR(ErrorCode::kInternal, "c.rows",
               gemm(a, ConstMatrix(x.data(), 4, 2), Matrix(x.data() + 50, 4, 2),
                    Accumulate::kOverwrite, pool));
  EXPECT_ERROR(ErrorCode::kInternal, "c.cols",
               gemm(a, ConstMatrix(x.data(), 4, 2), Matrix(x.data() + 50, 3, 3),
                    Accumulate::kOverwrite, pool));
}

TEST(gemm_names_its_kernel) {
  const std::string name = gemm_kernel_name();
  EXPECT(name == "accelerate" || name == gemm_kernels().front()->name);
  const std::string pairs = gemm_bfloat16_kernel_name();
  EXPECT(pairs == name || pairs == gemm_bfloat16_kernel()->name);
}

}  // namespace
}  // namespace subbit
