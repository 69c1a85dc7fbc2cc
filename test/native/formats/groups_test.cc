// int2, int3, int4 and int8: bytes, error bounds, products, refusals.
#include <cmath>
#include <vector>

#include "base/rng.h"
#include "formats/int2/int2.h"
#include "formats/int3/int3.h"
#include "formats/int4/int4.h"
#include "formats/int8/int8.h"
#include "formats/signs/quantized_rows.h"
#include "support/test.h"

namespace subbit {
namespace {

struct Case {
  const Format& format;
  uint64_t (*bytes)(Shape);
  std::vector<std::byte> (*pack)(ConstMatrix);
  double levels;     // the largest code that both signs have
  double half_step;  // of codes
  int bits;
};

const Case kCases[] = {{int2_format(), int2_bytes, pack_int2, 3, 1.0, 2},
                       {int3_format(), int3_bytes, pack_int3, 7, 1.0, 3},
                       {int4_format(), int4_bytes, pack_int4, 7, 0.5, 4},
                       {int8_format(), int8_bytes, pack_int8, 127, 0.5, 8}};

std::vector<float> random_values(int64_t count, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& v : values) v = 0.1f * rng.normal();
  return values;
}

TensorView tensor_of(const std::vector<std::byte>& bytes) {
  return {"t", DType::kU8, {static_cast<int64_t>(bytes.size())}, bytes};
}

TEST(group_formats_hold_each_weight_to_half_a_step) {
  for (const Case& c : kCases) {
    for (const Shape shape : {Shape{3, 64}, Shape{2, 288}, Shape{5, 33}, Shape{1, 1}}) {
      const auto values = random_values(shape.count(), 1);
      const ConstMatrix weights(values.data(), shape.rows, shape.cols);
      const auto bytes = c.pack(weights);
      EXPECT_EQ(bytes.size(), c.bytes(shape));
      std::vector<float> back(values.size());
      c.format.view(tensor_of(bytes), shape)
          ->unpack_rows(0, Matrix(back.data(), shape.rows, shape.cols));
      const int64_t group = shape.cols % 64 == 0 ? 64 : 32;
      for (int64_t i = 0; i < shape.rows; ++i) {
        for (int64_t first = 0; first < shape.cols; first += group) {
          double largest = 0;
          double error = 0;
          const int64_t count = std::min(group, shape.cols - first);
          for (int64_t j = first; j < first + count; ++j) {
            largest = std::max(largest, std::fabs(double(weights.at(i, j))));
            const double e =
                double(weights.at(i, j)) - back[static_cast<size_t>(i * shape.cols + j)];
            error += e * e;
          }
          // The scale chosen is at least as good in squared error as largest / levels, whose codes
          // are off by half a step, and by the scale's rounding to a half times the code.
          const double step = std::max(largest / c.levels, 0x1p-14);
          EXPECT(std::sqrt(error / static_cast<double>(count)) <=
                 step * (c.half_step + c.levels * 0x1p-11));
        }
      }
    }
  }
}

TEST(group_bytes_are_codes_scales_and_padding) {
  EXPECT_EQ(int4_bytes({32000, 288}), uint64_t{32000 * 9 * 18});  // groups of 32: 16 + 2 bytes
  EXPECT_EQ(int4_bytes({32000, 4096}), uint64_t{32000ull * 64 * 34});
  EXPECT_EQ(int8_bytes({1, 64}), uint64_t{128});
  EXPECT_EQ(int3_bytes({32000, 4096}), uint64_t{32000ull * 64 * 26});
  EXPECT_EQ(int3_bytes({32000, 288}), uint64_t{32000 * 9 * 14});
  EXPECT_EQ(int2_bytes({32000, 4096}), uint64_t{32000ull * 64 * 18});
  EXPECT_EQ(int2_bytes({32000, 288}), uint64_t{32000 * 9 * 10});
}

TEST(few_bits_leave_what_their_levels_must_of_gaussian_weights) {
  // Uniform levels without zero at the best scale leave 0.119 (4) and 0.0374 (8) of a Gaussian (Max
  // 1960); a scale for each 32 or 64 weights follows their spread, which gains a little.
  const struct {
    const Case& c;
    double most;
  } bounds[] = {{kCases[0], 0.119}, {kCases[1], 0.0374}, {kCases[2], 0.0115}};
  const Shape shape = {64, 320};
  const auto values = random_values(shape.count(), 9);
  for (const auto& [c, most] : bounds) {
    const auto bytes = c.pack(ConstMatrix(values.data(), shape.rows, shape.cols));
    std::vector<float> back(values.size());
    c.format.view(tensor_of(bytes), shape)
        ->unpack_rows(0, Matrix(back.data(), shape.rows, shape.cols));
    double error = 0;
    double size = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      error += (double(values[i]) - back[i]) * (double(values[i]) - back[i]);
      size += double(values[i]) * values[i];
    }
    EXPECT(error < most * size);
    EXPECT(error > 0.6 * most * size);
  }
}

TEST(group_products_follow_the_unpacked_weights_times_the_codes) {
  for (const Case& c : kCases) {
    for (const Shape shape : {Shape{7, 64}, Shape{33, 288}, Shape{4, 100}, Shape{1, 4096}}) {
      const auto values = random_values(shape.count(), 2);
      const auto bytes = c.pack(ConstMatrix(values.data(), shape.rows, shape.cols));
      const auto weight = c.format.view(tensor_of(bytes), shape);
      std::vector<float> dense(values.size());
      weight->unpack_rows(0, Matrix(dense.data(), shape.rows, shape.cols));
      const auto x = random_values(3 * shape.cols, 3);
      ThreadPool pool(2);
      QuantizedRows codes;
      quantize_rows(ConstMatrix(x.data(), 3, shape.cols), codes, pool);
      std::vector<float> y(static_cast<size_t>(3 * shape.rows));
      weight->multiply({ConstMatrix(x.data(), 3, shape.cols), nullptr, &codes},
                       Matrix(y.data(), 3, shape.rows), OutputMode::kOverwrite, pool);
      for (int64_t t = 0; t < 3; ++t) {
        for (int64_t i = 0; i < shape.rows; ++i) {
          double exact = 0;
          double magnitude = 0;
          for (int64_t j = 0; j < shape.cols; ++j) {
            const double code = std::ldexp(double(codes.codes[t * codes.chunks * 32 + j]),
                                           codes.exponents[t * codes.chunks + j / 32]);
            const double term = code * dense[static_cast<size_t>(i * shape.cols + j)];
            exact += term;
            magnitude += std::fabs(term);
          }
          // One rounding a group and lane sum, all below the sum of magnitudes.
          const double groups = static_cast<double>(shape.cols) / 32 + 4;
          EXPECT_NEAR(y[static_cast<size_t>(t * shape.rows + i)], exact,
                      groups * 0x1p-24 * magnitude);
        }
      }
    }
  }
}

/// Rows of any bits of codes and scales, not only what packing yields; codes in every chunk shift.
struct RandomRows {
  RandomRows(const GroupCoding& coding, int64_t rows, int64_t groups, int64_t group)
      : groups(groups),
        group(group),
        units(static_cast<size_t>(rows * groups * group * coding.bits / 8)),
        scales(static_cast<size_t>(rows * groups)),
        codes(static_cast<size_t>(groups * group)),
        shifts(codes.size() / 32) {
    Rng rng(static_cast<uint64_t>(groups));
    // At eight bits -128 is no code.
    for (uint8_t& byte : units)
      byte = static_cast<uint8_t>(std::max(-127, static_cast<int>(rng.next() % 256) - 128));
    for (Half& scale : scales) scale = to_half(0.01f * rng.normal());
    for (int8_t& code : codes) code = static_cast<int8_t>(static_cast<int>(rng.next() % 255) - 127);
    for (uint8_t& shift : shifts) shift = static_cast<uint8_t>(rng.next() % 13);
  }

  GroupRow row(int64_t r, const uint8_t* operand) const {
    const auto row_bytes = std::ssize(units) / (std::ssize(scales) / groups);
    return {units.data() + r * row_bytes,
            scales.data() + r * groups,
            groups,
            group,
            codes.data(),
            shifts.data(),
            operand};
  }

  int64_t groups;
  int64_t group;
  std::vector<uint8_t> units;
  std::vector<Half> scales;
  std::vector<int8_t> codes;
  std::vector<uint8_t> shifts;
};

TEST(every_group_kernel_agrees_with_the_plain_one) {
  for (const GroupCoding* coding :
       {&int2_coding(), &int3_coding(), &int4_coding(), &int8_coding()}) {
    for (const int64_t group : {32, 64}) {
      for (const int64_t groups : {1, 2, 3, 15, 16, 17, 35}) {
        const RandomRows random(*coding, 1, groups, group);
        GroupRow row = random.row(0, nullptr);
        const float plain = coding->kernels.back().dot(row);
        double magnitude = 0;
        std::vector<int8_t> weights(static_cast<size_t>(group));
        for (int64_t g = 0; g < groups; ++g) {
          coding->load(random.units.data() + g * group * coding->bits / 8, group, weights.data());
          for (int64_t j = 0; j < group; ++j) {
            const int64_t column = g * group + j;
            magnitude += std::abs(double(weights[static_cast<size_t>(j)]) *
                                  random.codes[static_cast<size_t>(column)]) *
                         (1 << random.shifts[static_cast<size_t>(column / 32)]) *
                         std::fabs(to_float(random.scales[static_cast<size_t>(g)]));
          }
        }
        for (const GroupKernel& kernel : coding->kernels) {
          if (!kernel.usable(group)) continue;
          Buffer<uint8_t> operand(kernel.operand_bytes == nullptr ? 0
                                                                  : kernel.operand_bytes(groups));
          if (kernel.load != nullptr) kernel.load(row, operand.data());
          row.operand = operand.data();
          // Each side rounds once a group and a few times to join its lanes.
          EXPECT_NEAR(kernel.dot(row), plain, (2.0 * double(groups) + 12) * 0x1p-24 * magnitude);
        }
      }
    }
  }
}

/// Which rows a kernel takes together depends on how threads share them out.
TEST(a_group_kernel_gives_a_row_the_same_bits_abreast_and_alone) {
  for (const GroupCoding* coding :
       {&int2_coding(), &int3_coding(), &int4_coding(), &int8_coding()}) {
    for (const int64_t group : {32, 64}) {
      for (const int64_t groups : {1, 2, 3, 9, 16, 17, 48, 49, 96, 97, 192, 193}) {
        for (const GroupKernel& kernel : coding->kernels) {
          if (!kernel.usable(group) || kernel.dots == nullptr) continue;
          const int64_t rows = kernel.abreast(groups);
          EXPECT(rows >= 1 && rows <= GroupKernel::kMostAbreast);
          if (rows == 1) continue;
          const RandomRows random(*coding, rows, groups, group);
          Buffer<uint8_t> operand(kernel.operand_bytes(groups));
          kernel.load(random.row(0, nullptr), operand.data());
          float sums[GroupKernel::kMostAbreast] = {};
          kernel.dots(random.row(0, operand.data()), sums);
          for (int64_t r = 0; r < rows; ++r)
            EXPECT_EQ(sums[r], kernel.dot(random.row(r, operand.data())));
        }
      }
    }
  }
}

TEST(group_tensors_of_the_wrong_length_scale_or_padding_are_refused) {
  for (const Case& c : kCases) {
    const Shape shape = {3, 40};
    const auto values = random_values(shape.count(), 4);
    const auto good = c.pack(ConstMatrix(values.data(), shape.rows, shape.cols));
    auto longer = good;
    longer.push_back(std::byte{0});
    EXPECT_ERROR(ErrorCode::kCorruptFile, "length", c.format.view(tensor_of(longer), shape));
    EXPECT_ERROR(ErrorCode::kCorruptFile, "length", c.format.view(tensor_of(good), {4, 40 * 4}));
    auto padded = good;
    padded.back() = std::byte{1};
    EXPECT_ERROR(ErrorCode::kCorruptFile, "padding", c.format.view(tensor_of(padded), shape));
    auto infinite = good;
    const auto scales = static_cast<size_t>(3 * 2 * 32 * c.bits / 8);
    infinite[scales] = std::byte{0};
    infinite[scales + 1] = std::byte{0x7C};
    EXPECT_ERROR(ErrorCode::kCorruptFile, "scale", c.format.view(tensor_of(infinite), shape));
  }
}

TEST(weights_that_are_not_finite_are_not_packed) {
  const float bad[] = {1.0f, INFINITY};
  EXPECT_ERROR(ErrorCode::kNonFinite, "finite", pack_int4(ConstMatrix(bad, 1, 2)));
}

}  // namespace
}  // namespace subbit
