// metal/quantize.metal against quantize_rows: every code, plane, exponent and padding word.
#include "metal/quantize.h"

#include <cmath>
#include <limits>

#include "support/metal_kernels.h"
#include "support/test.h"

namespace subbit::test {
namespace {

struct Quantized {
  std::vector<uint32_t> qvecs;
  uint32_t status;
};

/// What the kernel needs beside x; empty vectors where a flag is not set.
struct Extras {
  std::vector<float> weight;
  std::vector<Half> s_pre;
  std::vector<float> row_scale;
};

Quantized quantize(const std::vector<float>& x, shader::QuantizeArgs args, uint32_t tokens,
                   const Extras& extras = {}) {
  const uint32_t chunks = shader::chunks_of_columns(args.columns);
  const ExactBuffer<float> in(x);
  const ExactBuffer<float> weight(extras.weight.empty() ? std::vector<float>(1) : extras.weight);
  const ExactBuffer<Half> s_pre(extras.s_pre.empty() ? std::vector<Half>(1) : extras.s_pre);
  const ExactBuffer<float> scale(extras.row_scale.empty() ? std::vector<float>(1)
                                                          : extras.row_scale);
  const ExactBuffer<uint32_t> out(size_t{tokens} * shader::qvec_words(chunks));
  const ExactBuffer<uint32_t> status(1, 0u);
  run_in_every_order({"quantize",
                      {shader::quantize_groups(args.columns), tokens},
                      {shader::kQuantizeThreads},
                      {bytes_of(args), in.binding(), weight.binding(), s_pre.binding(),
                       scale.binding(), out.binding(), status.binding()},
                      {}},
                     {5, 6});
  return {out.values(), status[0]};
}

}  // namespace

TEST(metal_quantize_equals_the_cpu_to_the_bit) {
  for (const uint32_t columns : {1u, 31u, 32u, 33u, 64u, 172u, 288u, 1000u}) {
    std::vector<float> x = random_floats(3 * columns, columns);
    // Ties, the largest code and the next float, a chunk below 2^-100, zeros, spread exponents.
    for (uint32_t j = 0; j < columns; ++j) {
      x[j] = std::ldexp(x[j], -static_cast<int>(j / 32 % 40));
      if (j % 7 == 0) x[columns + j] = 127.0f * std::ldexp(1.0f, static_cast<int>(j % 5) - 2);
      if (j % 7 == 1) x[columns + j] = std::nextafter(127.0f, 128.0f);
      if (j % 7 == 2) x[columns + j] = static_cast<float>(j) + 0.5f;
      if (j / 32 % 3 == 1) x[2 * columns + j] *= 0x1p-101f;
      if (j / 32 % 3 == 2) x[2 * columns + j] = 0.0f;
    }
    const Quantized gpu = quantize(x, {columns, 0, columns, 0, 0.0f}, 3);
    expect_same_words(gpu.qvecs, make_qvecs(cpu_quantize(x, 3), {}),
                      "columns " + std::to_string(columns));
    EXPECT_EQ(gpu.status, 0u);
  }
}

TEST(metal_quantize_multiplies_by_norm_and_pre_scale_first) {
  const uint32_t columns = 100;
  const auto x = random_floats(columns, 1);
  Extras extras;
  extras.weight = random_floats(columns, 2);
  for (const float s : random_floats(columns, 3)) extras.s_pre.push_back(to_half(s));
  std::vector<float> v(columns);
  double squares = 0;
  for (uint32_t j = 0; j < columns; ++j) {
    v[j] = (x[j] * extras.weight[j]) * to_float(extras.s_pre[j]);
    squares += double{x[j]} * x[j];
  }
  const uint32_t flags = shader::kQuantizeNorm | shader::kQuantizePreScale;
  const Quantized gpu = quantize(x, {columns, flags, columns, 0, 1e-5f}, 1, extras);
  const auto wanted = make_qvecs(cpu_quantize(v, 1), {});
  const uint32_t squares_at = shader::qvec_squares_at(4);
  expect_same_words(std::span(gpu.qvecs).subspan(4, squares_at - 4),
                    std::span(wanted).subspan(4, squares_at - 4), "codes");
  EXPECT_EQ(gpu.qvecs[shader::kHeaderColumns], columns);
  EXPECT_EQ(std::bit_cast<float>(gpu.qvecs[shader::kHeaderRho]), 1e-5f);
  double sum = 0;
  for (uint32_t c = 0; c < 4; ++c) sum += std::bit_cast<float>(gpu.qvecs[squares_at + c]);
  EXPECT_NEAR(sum, squares, 32 * 0x1p-24 * squares);
}

TEST(metal_quantize_reads_gate_and_up_and_a_row_scale) {
  const uint32_t columns = 40;
  const uint32_t stride = 3 * columns;  // gate, up, and something else
  const auto x = random_floats(2 * stride, 5);
  std::vector<float> v;
  for (uint32_t t = 0; t < 2; ++t) {
    for (uint32_t j = 0; j < columns; ++j) {
      const float gate = x[t * stride + j];
      v.push_back(gate / (1.0f + std::exp(-gate)) * x[t * stride + columns + j]);
    }
  }
  Extras extras;
  extras.row_scale = {0.25f, 3.0f};
  const uint32_t flags = shader::kQuantizeSwiglu | shader::kQuantizeRowScale;
  const Quantized gpu = quantize(x, {columns, flags, stride, columns, 0.0f}, 2, extras);
  expect_same_words(gpu.qvecs, make_qvecs(cpu_quantize(v, 2), extras.row_scale), "swiglu");
}

TEST(metal_quantize_reports_what_is_not_finite) {
  for (const float bad :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<float> x(70, 1.0f);
    x[69] = bad;
    EXPECT_EQ(quantize(x, {70, 0, 70, 0, 0.0f}, 1).status, uint32_t{shader::kStatusNonFinite});
  }
}

}  // namespace subbit::test
