// The kernels of int4, int8 and plain float weights, and the embedding gather, against sums in
// double over the unpacked weights.
#include "metal/groups.h"

#include <cmath>

#include "formats/int2/int2.h"
#include "formats/int3/int3.h"
#include "formats/int4/int4.h"
#include "formats/int8/int8.h"
#include "formats/registry.h"
#include "formats/signs/loaded_codes.h"
#include "metal/dense.h"
#include "metal/embed.h"
#include "metal/gemm.h"
#include "metal/linear.h"
#include "support/metal_linears.h"
#include "support/test.h"

namespace subbit::test {
namespace {

struct Group {
  const char* name;
  uint32_t bits;
  int64_t reach;
  std::vector<std::byte> (*pack)(ConstMatrix);
};

constexpr Group kGroups[] = {{"int2", 2, 3, pack_int2},
                             {"int3", 3, 7, pack_int3},
                             {"int4", 4, 8, pack_int4},
                             {"int8", 8, 127, pack_int8}};

uint32_t group_of(int64_t columns) { return columns % 64 == 0 ? 64 : 32; }

/// Sums of both signs for one output: what it is, and what its roundings are measured by.
struct Dot {
  double sum = 0;
  double magnitude = 0;
  void add(double term) {
    sum += term;
    magnitude += std::fabs(term);
  }
};

/// A format's kernel for one token, for a few or for a prompt: as it is named, what it is run with,
/// and how many roundings one sum over so many columns takes.
struct Way {
  const char* name;
  uint32_t tokens;
};
constexpr Way kWays[] = {{"gemv", 1}, {"columns", 2}, {"columns", 5}, {"gemm", 9}, {"gemm", 33}};

bool is_gemm(const Way& way) { return std::string_view(way.name) == "gemm"; }

Dispatch plain_dispatch(const std::string& kernel, const Way& way, uint32_t rows,
                        std::vector<Binding> buffers) {
  if (is_gemm(way)) {
    return {kernel,
            {shader::gemm_row_groups(rows), shader::gemm_token_groups(way.tokens)},
            {shader::kGemmThreads},
            std::move(buffers),
            {shader::gemm_threadgroup_bytes(4)}};
  }
  static_assert(uint32_t{shader::kDenseRows} == uint32_t{shader::kGroupRows});
  return {kernel,
          {(rows + shader::kGroupRows - 1) / shader::kGroupRows, (way.tokens + 3) / 4},
          {shader::kGroupThreads},
          std::move(buffers),
          {}};
}

void expect_group_gemv(const Group& format, Shape shape, const Way& way) {
  const uint32_t tokens = way.tokens;
  const auto columns = static_cast<uint32_t>(shape.cols);
  const auto rows = static_cast<uint32_t>(shape.rows);
  const auto weights = random_floats(static_cast<size_t>(shape.count()), 1);
  const auto bytes = format.pack(ConstMatrix(weights.data(), shape.rows, shape.cols));
  const TensorView tensor{"t", DType::kU8, {std::ssize(bytes)}, bytes};
  const auto weight = find_format(format.name)->view(tensor, shape);
  const std::vector<float> rho = random_floats(tokens, 5);
  const QuantizedRows codes =
      cpu_quantize(make_values(tokens * columns, Values::kSpread, 2), tokens);
  LoadedCodes loaded;
  const uint32_t group = group_of(shape.cols);
  const uint32_t groups = (columns + group - 1) / group;
  ThreadPool pool(1);
  load_codes(codes, group * format.reach, loaded, pool);
  const uint32_t unit_bytes = group * format.bits / 8;
  shader::GroupGemvArgs args{rows,
                             columns,
                             group,
                             groups,
                             rows * groups * unit_bytes,
                             static_cast<uint32_t>(loaded.headroom),
                             shader::kEpilogueBias,
                             rows,
                             tokens};
  const ExactBuffer<std::byte> packed(bytes);
  const ExactBuffer<uint32_t> qvecs(make_qvecs(codes, rho));
  const auto bias = random_floats(rows, 3);
  const ExactBuffer<float> bias_buffer(bias);
  const auto h = random_floats(tokens * rows, 4);
  const ExactBuffer<float> y(h);
  run_in_every_order(plain_dispatch(std::string(format.name) + "_" + way.name + "_add", way, rows,
                                    {bytes_of(args), packed.binding(), qvecs.binding(),
                                     bias_buffer.binding(), y.binding()}),
                     {4});
  std::vector<float> row(columns);
  for (uint32_t i = 0; i < rows; ++i) {
    weight->unpack_rows(i, Matrix(row.data(), 1, shape.cols));
    for (uint32_t t = 0; t < tokens; ++t) {
      Dot dot;
      for (uint32_t j = 0; j < columns; ++j) {
        const int64_t chunk = t * loaded.chunks + j / 32;
        const double code = std::ldexp(loaded.codes[t * loaded.chunks * 32 + j],
                                       loaded.shifts[chunk] + loaded.exponents[t]);
        dot.add(code * row[j] * rho[t]);
      }
      const double wanted = h[t * rows + i] + (dot.sum + bias[i]);
      // A rounding a group, 5 in the simd sum, the gain, bias and h; or one a column.
      const double tolerance = ((is_gemm(way) ? columns : groups) + 9) * 0x1p-24 *
                               (dot.magnitude + std::fabs(bias[i]) + std::fabs(wanted));
      EXPECT_NEAR(y[t * rows + i], wanted, tolerance);
    }
  }
}

void expect_embed(const std::string& kernel, const Weight& weight, std::span<const std::byte> bytes,
                  uint32_t scales_at) {
  const auto columns = static_cast<uint32_t>(weight.shape().cols);
  const uint32_t group = group_of(columns);
  shader::EmbedArgs args{columns, columns + 1, group, (columns + group - 1) / group, scales_at};
  const std::vector<int32_t> ids = {4, 0, 4};
  const ExactBuffer<std::byte> table(bytes);
  const ExactBuffer<int32_t> tokens(ids);
  const ExactBuffer<float> h(3 * (columns + 1) - 1);
  run_in_every_order({kernel,
                      {(columns + shader::kEmbedThreads - 1) / shader::kEmbedThreads, 3},
                      {shader::kEmbedThreads},
                      {bytes_of(args), table.binding(), tokens.binding(), h.binding()},
                      {}},
                     {3});
  std::vector<float> row(columns);
  for (size_t t = 0; t < ids.size(); ++t) {
    weight.unpack_rows(ids[t], Matrix(row.data(), 1, columns));
    for (uint32_t j = 0; j < columns; ++j) EXPECT_EQ(h[t * (columns + 1) + j], row[j]);
  }
}

/// `values` as a checkpoint stores them.
std::vector<std::byte> stored_as(DType type, const std::vector<float>& values) {
  std::vector<std::byte> bytes;
  const auto append = [&](const auto& element) {
    const auto part = std::as_bytes(std::span(&element, 1));
    bytes.insert(bytes.end(), part.begin(), part.end());
  };
  for (const float value : values) {
    if (type == DType::kF32) append(value);
    if (type == DType::kF16) append(to_half(value));
    if (type == DType::kBF16) append(to_bfloat16(value));
  }
  return bytes;
}

void expect_dense(DType type, const std::string& suffix, Shape shape, const Way& way) {
  const uint32_t tokens = way.tokens;
  const auto columns = static_cast<uint32_t>(shape.cols);
  const auto rows = static_cast<uint32_t>(shape.rows);
  const auto bytes = stored_as(type, random_floats(static_cast<size_t>(shape.count()), 1));
  const TensorView tensor{"t", type, {shape.rows, shape.cols}, bytes};
  const auto weight = find_format("dense")->view(tensor, shape);
  if (rows > 4) expect_embed("embed_" + suffix, *weight, bytes, 0);
  const auto x = random_floats(tokens * columns, 2);
  const std::vector<float> scale = random_floats(tokens, 6);
  shader::DenseGemvArgs args{rows, columns, columns, rows, shader::kDenseRowScale, tokens};
  const ExactBuffer<std::byte> weights(bytes);
  const ExactBuffer<float> in(x);
  const ExactBuffer<float> scales(scale);
  const ExactBuffer<float> bias(1);
  const ExactBuffer<float> y(tokens * rows);
  run_in_every_order(
      plain_dispatch("dense_" + std::string(way.name) + "_" + suffix + "_store", way, rows,
                     {bytes_of(args), weights.binding(), in.binding(), scales.binding(),
                      bias.binding(), y.binding()}),
      {5});
  std::vector<float> row(columns);
  for (uint32_t i = 0; i < rows; ++i) {
    weight->unpack_rows(i, Matrix(row.data(), 1, shape.cols));
    for (uint32_t t = 0; t < tokens; ++t) {
      Dot dot;
      for (uint32_t j = 0; j < columns; ++j)
        dot.add(double{row[j]} * x[t * columns + j] * scale[t]);
      // A rounding for each column of a lane, 5 in the simd sum, one for the scale; or one a
      // column.
      const uint32_t roundings = is_gemm(way) ? columns : columns / 32;
      EXPECT_NEAR(y[t * rows + i], dot.sum, (roundings + 7) * 0x1p-24 * dot.magnitude);
    }
  }
}

}  // namespace

TEST(metal_group_kernels_agree_with_the_unpacked_weights) {
  for (const Group& format : kGroups) {
    for (const Way& way : kWays) {
      for (const int64_t columns : {1, 33, 64, 288}) expect_group_gemv(format, {17, columns}, way);
    }
    for (const int64_t rows : {1, 4}) expect_group_gemv(format, {rows, 100}, kWays[2]);
    expect_group_gemv(format, {66, 128}, kWays[3]);
    expect_group_gemv(format, {5, 2112}, kWays[0]);  // lanes with two groups
  }
}

TEST(metal_embed_gathers_rows_of_group_formats) {
  for (const Group& format : kGroups) {
    for (const int64_t columns : {1, 33, 64, 288}) {
      const auto weights = random_floats(static_cast<size_t>(5 * columns), 1);
      const auto bytes = format.pack(ConstMatrix(weights.data(), 5, columns));
      const TensorView tensor{"t", DType::kU8, {std::ssize(bytes)}, bytes};
      const auto weight = find_format(format.name)->view(tensor, {5, columns});
      const uint32_t group = group_of(columns);
      const auto groups = static_cast<uint32_t>((columns + group - 1) / group);
      const uint32_t unit_bytes = group * format.bits / 8;
      expect_embed(std::string("embed_") + format.name, *weight, bytes, 5 * groups * unit_bytes);
    }
  }
}

TEST(metal_dense_kernels_and_embed_agree_with_the_stored_floats) {
  for (const Shape shape : {Shape{1, 1}, Shape{5, 33}, Shape{17, 300}}) {
    for (const Way& way : kWays) {
      expect_dense(DType::kF32, "f32", shape, way);
      expect_dense(DType::kF16, "f16", shape, way);
      expect_dense(DType::kBF16, "bf16", shape, way);
    }
  }
}

}  // namespace subbit::test
