// Linear layers of every stored format, on the GPU back end and on the processor: from one input
// both must give one result, to the bit where the format's sums are integers.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "backend/cpu/cpu_backend.h"
#include "backend/gpu/gpu_backend.h"
#include "base/buffer.h"
#include "base/rng.h"
#include "formats/int2/int2.h"
#include "formats/int3/int3.h"
#include "formats/int4/int4.h"
#include "formats/int8/int8.h"
#include "formats/packed/pack.h"
#include "formats/packed/packed.h"
#include "formats/registry.h"
#include "support/fake_metal/fake_metal.h"
#include "support/gpu_runner.h"
#include "support/test.h"

namespace subbit {
namespace {

enum class Agreement { kBits, kRoundings };

/// Bytes of a tensor and the weight over them.
struct Stored {
  std::vector<std::byte> bytes;
  std::vector<int8_t> table;
  TensorView table_view;
  std::shared_ptr<const Weight> weight;
};

std::vector<float> random_floats(int64_t count, Rng& rng) {
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = rng.normal();
  return values;
}

SignMatrix random_signs(int64_t rows, int64_t cols, Rng& rng) {
  SignMatrix signs{rows, cols, std::vector<uint8_t>(static_cast<size_t>(rows * cols))};
  for (uint8_t& bit : signs.bits) bit = rng.next() & 1;
  return signs;
}

PackedTerm term_of(const char* kind, Shape shape, int64_t first, int64_t columns, Rng& rng) {
  PackedTerm term;
  term.kind = find_term_kind(kind)->tag();
  term.first_column = first;
  term.columns = columns;
  term.gain = 0.3f;
  if (std::string_view(kind) == "factored") {
    term.rank = 64;
    term.matrices = {random_signs(64, columns, rng), random_signs(shape.rows, 64, rng)};
  } else if (std::string_view(kind) == "code84") {
    term.matrices = {random_signs(shape.rows, columns / 2, rng)};
  } else if (std::string_view(kind) == "sign") {
    term.matrices = {random_signs(shape.rows, columns, rng)};
  } else {
    term.table_width = 8;
    term.indices = {shape.rows, columns / 8, {}};
    term.indices.values.resize(static_cast<size_t>(shape.rows * columns / 8));
    for (uint8_t& index : term.indices.values) index = static_cast<uint8_t>(rng.next());
  }
  return term;
}

PackedLinear packed_of(Shape shape, const std::vector<const char*>& kinds, Rng& rng) {
  PackedLinear linear;
  linear.shape = shape;
  linear.s_post = random_floats(shape.rows, rng);
  for (const char* kind : kinds) {
    linear.terms.push_back(term_of(kind, shape, 0, shape.cols, rng));
  }
  return linear;
}

std::shared_ptr<Stored> view(const char* format, std::vector<std::byte> bytes, Shape shape,
                             int64_t flat = 0) {
  auto stored = std::make_shared<Stored>();
  stored->bytes = std::move(bytes);
  // A table of 256 vectors of 8, for the terms that want one.
  stored->table.resize(256 * 8);
  Rng rng(3);
  for (int8_t& entry : stored->table) entry = static_cast<int8_t>(rng.next() % 255) - 127;
  stored->table_view = {
      "model.tables.0", DType::kI8, {256, 8}, std::as_bytes(std::span(stored->table))};
  TensorView tensor;
  tensor.name = "t";
  tensor.bytes = stored->bytes;
  tensor.dtype = DType::kU8;
  tensor.shape = {flat != 0 ? flat : static_cast<int64_t>(stored->bytes.size())};
  const Stored* kept = stored.get();
  stored->weight = find_format(format)->view(
      tensor, shape, [kept](int) -> const TensorView* { return &kept->table_view; });
  return stored;
}

std::shared_ptr<Stored> packed(const PackedLinear& linear) {
  return view("packed", pack(linear), linear.shape);
}

/// One linear on both back ends, for one token, three and a prompt, stored and added.
void expect_agreement(const Linear& linear, Agreement agreement,
                      PromptKernel prompt = PromptKernel::kColumns) {
  int wrong = 0;
  double worst = 0;
  fake_metal::reset();
  ThreadPool pool(1);
  const auto cpu = make_cpu_backend(pool);
  GpuPolicy policy = gpu_policy(7);
  policy.prompt_kernel = prompt;
  const auto gpu = make_gpu_backend(test::test_device(), policy);
  const int64_t rows = linear.shape.rows;
  const int64_t cols = linear.shape.cols;
  for (const int64_t tokens : {1, 3, 9}) {
    Rng rng(7);
    const int64_t x_stride = cols + 4;
    const int64_t y_stride = rows + 12;
    Buffer<float> memory(tokens * (x_stride + y_stride));
    for (int64_t i = 0; i < memory.size(); ++i) memory[i] = rng.normal();
    Buffer<float> expected(memory.size());
    std::memcpy(expected.data(), memory.data(), static_cast<size_t>(memory.size()) * 4);
    const auto tensors = [&](Buffer<float>& in) {
      return std::pair(Tensor{in.data(), tokens, cols, x_stride, nullptr},
                       Tensor{in.data() + tokens * x_stride, tokens, rows, y_stride, nullptr});
    };
    gpu->share(std::as_bytes(memory.span()));
    for (const bool add : {false, true}) {
      const auto [x, y] = tensors(memory);
      const auto [cpu_x, cpu_y] = tensors(expected);
      if (add) {
        cpu->linear_add(linear, cpu_x, cpu_y);
        gpu->linear_add(linear, x, y);
      } else {
        cpu->linear(linear, cpu_x, cpu_y);
        gpu->linear(linear, x, y);
      }
      gpu->finish();
      for (int64_t i = 0; i < memory.size(); ++i) {
        // A float sum over K terms in another order; outputs here are below 2^6 in magnitude.
        const double tolerance = agreement == Agreement::kBits ? 0 : 1e-4;
        const double apart = std::fabs(memory[i] - expected[i]);
        if (!(apart <= tolerance)) ++wrong;
        worst = std::max(worst, apart);
      }
    }
    gpu->unshare(std::as_bytes(memory.span()));
  }
  if (wrong > 0) {
    test::fail(__FILE__, __LINE__,
               linear.parts[0].weight->describe() + " of " + std::to_string(rows) + " x " +
                   std::to_string(cols) + ": " + std::to_string(wrong) +
                   " values differ, by up to " + std::to_string(worst));
  }
}

Linear one_part(const std::shared_ptr<Stored>& stored, std::vector<float> bias = {}) {
  Linear linear;
  linear.shape = stored->weight->shape();
  linear.parts.push_back({stored->weight, std::move(bias)});
  return linear;
}

TEST(packed_linears_of_every_kind_of_term_agree_with_the_processor_to_the_bit) {
  Rng rng(1);
  for (const Shape shape : {Shape{65, 256}, Shape{4, 512}, Shape{33, 256}}) {
    for (const std::vector<const char*>& kinds :
         std::vector<std::vector<const char*>>{{"sign"},
                                               {"factored"},
                                               {"code84"},
                                               {"table"},
                                               {"sign", "sign"},
                                               {"factored", "sign"},
                                               {"factored", "factored", "code84"},
                                               {"table", "sign"}}) {
      const auto stored = packed(packed_of(shape, kinds, rng));
      expect_agreement(one_part(stored), Agreement::kBits);
      expect_agreement(one_part(stored), Agreement::kBits, PromptKernel::kMatrix);
    }
  }
}

TEST(scales_biases_and_runs_of_columns_agree_with_the_processor_to_the_bit) {
  Rng rng(2);
  const Shape shape = {70, 192};
  PackedLinear linear = packed_of(shape, {"factored"}, rng);
  linear.terms[0].s_mid = random_floats(64, rng);
  expect_agreement(one_part(packed(linear)), Agreement::kBits);
  expect_agreement(one_part(packed(linear)), Agreement::kBits, PromptKernel::kMatrix);
  linear.bias = random_floats(shape.rows, rng);
  expect_agreement(one_part(packed(linear)), Agreement::kBits);
  linear.s_pre = random_floats(shape.cols, rng);
  expect_agreement(one_part(packed(linear)), Agreement::kBits);

  PackedLinear mixed = packed_of(shape, {}, rng);
  mixed.terms = {term_of("sign", shape, 0, 64, rng), term_of("sign", shape, 0, 64, rng),
                 term_of("sign", shape, 64, 128, rng)};
  mixed.bias = random_floats(shape.rows, rng);
  expect_agreement(one_part(packed(mixed)), Agreement::kBits);
  expect_agreement(one_part(packed(mixed)), Agreement::kBits, PromptKernel::kMatrix);
}

TEST(group_and_plain_weights_agree_with_the_processor_up_to_the_order_of_floats) {
  Rng rng(4);
  for (const Shape shape : {Shape{65, 128}, Shape{17, 96}, Shape{3, 64}}) {
    const std::vector<float> weights = random_floats(shape.count(), rng);
    const ConstMatrix matrix(weights.data(), shape.rows, shape.cols);
    expect_agreement(one_part(view("int2", pack_int2(matrix), shape)), Agreement::kRoundings);
    expect_agreement(one_part(view("int3", pack_int3(matrix), shape)), Agreement::kRoundings);
    const auto int4 = view("int4", pack_int4(matrix), shape);
    const auto int8 = view("int8", pack_int8(matrix), shape);
    expect_agreement(one_part(int4), Agreement::kRoundings);
    expect_agreement(one_part(int8, random_floats(shape.rows, rng)), Agreement::kRoundings);
  }
}

TEST(a_stack_of_parts_in_different_formats_agrees_with_the_processor) {
  Rng rng(5);
  const auto signs = packed(packed_of({32, 256}, {"factored"}, rng));
  PackedLinear scaled = packed_of({12, 256}, {"sign"}, rng);
  scaled.s_pre = random_floats(256, rng);
  const auto own = packed(scaled);
  const std::vector<float> weights = random_floats(20 * 256, rng);
  const auto int4 = view("int4", pack_int4(ConstMatrix(weights.data(), 20, 256)), {20, 256});
  Linear linear;
  linear.shape = {64, 256};
  linear.parts = {{signs->weight, {}}, {own->weight, {}}, {int4->weight, random_floats(20, rng)}};
  expect_agreement(linear, Agreement::kRoundings);
}

}  // namespace
}  // namespace subbit
