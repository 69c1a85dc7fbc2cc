// The decode product against doubles, and against its own contract to the bit.
#include "linalg/dense_dot.h"

#include <bit>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "base/half.h"
#include "base/rng.h"
#include "linalg/dense_dot_kernel.h"
#include "linalg/widen.h"
#include "support/test.h"

namespace subbit {
namespace {

using Type = GemmOperand::Type;

struct Weights {
  std::vector<float> floats;  // [rows, stride], what the stored elements stand for
  std::vector<uint16_t> halves;
  GemmOperand operand;
};

Weights make_weights(Shape shape, Type type, int64_t stride) {
  Weights w;
  Rng rng(3);
  w.floats.assign(static_cast<size_t>(shape.rows * stride),
                  std::numeric_limits<float>::quiet_NaN());
  for (int64_t i = 0; i < shape.rows; ++i)
    for (int64_t j = 0; j < shape.cols; ++j)
      w.floats[static_cast<size_t>(i * stride + j)] = rng.normal();
  for (float& value : w.floats) {
    if (type == Type::kF16) {
      w.halves.push_back(to_half(value).bits);
      value = to_float(to_half(value));
    } else if (type == Type::kBF16) {
      w.halves.push_back(to_bfloat16(value).bits);
      value = to_float(to_bfloat16(value));
    }
  }
  w.operand = ConstMatrix(w.floats.data(), shape.rows, shape.cols, stride);
  if (type != Type::kF32) w.operand.data = w.halves.data();
  w.operand.type = type;
  return w;
}

/// The contract of dense_dot.h, written down literally.
float contract_dot(const float* w, const std::vector<float>& x) {
  float sums[32] = {};
  const size_t steps = (x.size() + 31) / 32;
  for (size_t step = 0; step < steps; ++step) {
    for (size_t l = 0; l < 32; ++l) {
      const size_t k = 32 * step + l;
      const float product = k < x.size() ? w[k] * x[k] : 0.0f;
      sums[l] = sums[l] + product;
    }
  }
  for (size_t half = 16; half > 0; half /= 2)
    for (size_t l = 0; l < half; ++l) sums[l] = sums[l] + sums[l + half];
  return sums[0];
}

TEST(dense_dot_has_the_bits_of_its_contract_on_every_kernel_and_thread_count) {
  for (const int64_t cols : {1, 7, 8, 31, 32, 33, 63, 64, 65, 172, 288, 1001}) {
    for (const int64_t rows : {1, 2, 33, 700}) {
      for (const Type type : {Type::kF32, Type::kF16, Type::kBF16}) {
        const int64_t stride = cols + 3;
        const Weights w = make_weights({rows, cols}, type, stride);
        std::vector<float> x(static_cast<size_t>(cols));
        Rng rng(9);
        for (float& value : x) value = rng.normal();
        std::vector<float> expected(static_cast<size_t>(rows));
        for (int64_t i = 0; i < rows; ++i)
          expected[static_cast<size_t>(i)] = contract_dot(w.floats.data() + i * stride, x);
        std::vector<float> y(static_cast<size_t>(rows));
        for (const DenseDotKernel& kernel : dense_dot_kernels()) {
          std::fill(y.begin(), y.end(), -1.0f);
          kernel.run({type, w.operand.data, stride * element_bytes(type), rows, x, y.data()});
          EXPECT(y == expected);
        }
        for (const int threads : {1, 3}) {
          ThreadPool pool(threads);
          std::fill(y.begin(), y.end(), -1.0f);
          dense_dot(w.operand, x, y, pool);
          EXPECT(y == expected);
        }
      }
    }
  }
}

TEST(dense_dot_is_close_to_a_double_sum) {
  const int64_t cols = 1000;
  const Weights w = make_weights({50, cols}, Type::kBF16, cols);
  std::vector<float> x(static_cast<size_t>(cols));
  Rng rng(10);
  for (float& value : x) value = rng.normal();
  std::vector<float> y(50);
  ThreadPool pool(2);
  dense_dot(w.operand, x, y, pool);
  for (size_t i = 0; i < y.size(); ++i) {
    double sum = 0, magnitude = 0;
    for (size_t k = 0; k < x.size(); ++k) {
      const double product = double{w.floats[i * x.size() + k]} * x[k];
      sum += product;
      magnitude += std::fabs(product);
    }
    // A term is rounded as a product, in at most 32 sums of its lane and in 5 folds.
    EXPECT_NEAR(y[i], sum, 38 * 0x1p-24 * 1.001 * magnitude);
  }
}

TEST(dense_dot_refuses_shapes_that_do_not_fit) {
  ThreadPool pool(1);
  const Weights w = make_weights({4, 6}, Type::kF32, 6);
  std::vector<float> x(6), y(4), longer(7);
  EXPECT_ERROR(ErrorCode::kInternal, "cols", dense_dot(w.operand, longer, y, pool));
  EXPECT_ERROR(ErrorCode::kInternal, "rows", dense_dot(w.operand, x, longer, pool));
  GemmOperand transposed = w.operand;
  transposed.transpose = Transpose::kYes;
  EXPECT_ERROR(ErrorCode::kInternal, "transpose", dense_dot(transposed, y, x, pool));
}

TEST(widen_is_exact_for_every_sixteen_bit_pattern) {
  std::vector<uint16_t> bits(65536);
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<uint16_t>(i);
  std::vector<float> out(bits.size());
  int wrong = 0;
  widen(Type::kF16, bits.data(), std::ssize(bits), out.data());
  for (size_t i = 0; i < bits.size(); ++i) {
    const float expected = to_float(Half{bits[i]});
    const bool same = std::bit_cast<uint32_t>(out[i]) == std::bit_cast<uint32_t>(expected);
    wrong += !(same || (std::isnan(out[i]) && std::isnan(expected)));
  }
  // An odd start and an odd length: the loops' remainders.
  widen(Type::kBF16, bits.data() + 1, std::ssize(bits) - 2, out.data());
  for (size_t i = 1; i + 1 < bits.size(); ++i)
    wrong += std::bit_cast<uint32_t>(out[i - 1]) != uint32_t{bits[i]} << 16;
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace subbit
