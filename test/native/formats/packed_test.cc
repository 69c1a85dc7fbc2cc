// Packed linears: bytes, refusals, and their product against the unpacked weights.
#include "formats/packed/packed.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "base/rng.h"
#include "formats/packed/layout.h"
#include "formats/packed/pack.h"
#include "formats/registry.h"
#include "formats/signs/quantized_rows.h"
#include "support/test.h"

namespace subbit {
namespace {

SignMatrix random_signs(int64_t rows, int64_t cols, Rng& rng) {
  SignMatrix signs{rows, cols, std::vector<uint8_t>(static_cast<size_t>(rows * cols))};
  for (uint8_t& bit : signs.bits) bit = rng.next() & 1;
  return signs;
}

std::vector<float> random_scales(int64_t count, Rng& rng) {
  std::vector<float> scales(static_cast<size_t>(count));
  for (float& s : scales) s = 0.02f * (0.2f + std::fabs(rng.normal()));
  return scales;
}

struct Options {
  bool own_pre = false;
  bool bias = false;
  bool mid = false;
};

PackedLinear factored(Shape shape, int64_t rank, Options options, uint64_t seed) {
  Rng rng(seed);
  PackedLinear linear;
  linear.shape = shape;
  linear.s_post = random_scales(shape.rows, rng);
  if (options.own_pre) linear.s_pre = random_scales(shape.cols, rng);
  if (options.bias) linear.bias = random_scales(shape.rows, rng);
  PackedTerm term;
  term.kind = find_term_kind("factored")->tag();
  term.rank = rank;
  term.columns = shape.cols;
  term.gain = 0.7f;
  if (options.mid) term.s_mid = random_scales(rank, rng);
  term.matrices = {random_signs(rank, shape.cols, rng), random_signs(shape.rows, rank, rng)};
  linear.terms = {std::move(term)};
  return linear;
}

/// Ternary on the first 64 columns, plain signs on the rest: three sign terms, mixed rates. Then
/// `more` corrections over all columns, each of half the size of the one before.
PackedLinear mixed_signs(Shape shape, uint64_t seed, int more = 0) {
  Rng rng(seed);
  PackedLinear linear;
  linear.shape = shape;
  linear.s_post = random_scales(shape.rows, rng);
  const auto add = [&](int64_t first, int64_t columns, float gain) {
    PackedTerm term;
    term.kind = find_term_kind("sign")->tag();
    term.first_column = first;
    term.columns = columns;
    term.gain = gain;
    term.matrices = {random_signs(shape.rows, columns, rng)};
    linear.terms.push_back(std::move(term));
  };
  add(0, 64, 0.5f);
  add(0, 64, 0.5f);
  add(64, shape.cols - 64, 0.3f);
  for (int i = 1; i <= more; ++i) add(0, shape.cols, std::ldexp(0.3f, -i));
  return linear;
}

/// Packed bytes together with the tensor that names them.
struct Packed {
  std::vector<std::byte> bytes;
  TensorView tensor;
  explicit Packed(const PackedLinear& linear) : bytes(pack(linear)) { retarget(); }
  void retarget() {
    tensor.name = "t.packed";
    tensor.dtype = DType::kU8;
    tensor.shape = {static_cast<int64_t>(bytes.size())};
    tensor.bytes = bytes;
  }
};

/// Largest error of multiply() against unpacked weights times the same input, over its bound.
void expect_product(const PackedLinear& linear, int64_t tokens) {
  const Packed packed(linear);
  const auto weight = packed_format().view(packed.tensor, linear.shape);
  const auto [rows, cols] = linear.shape;
  std::vector<float> dense(static_cast<size_t>(rows * cols));
  weight->unpack_rows(0, Matrix(dense.data(), rows, cols));

  Rng rng(99);
  std::vector<float> x(static_cast<size_t>(tokens * cols));
  for (float& v : x) v = rng.normal();
  const std::vector<float> rho(static_cast<size_t>(tokens), 0.37f);
  ThreadPool pool(2);
  QuantizedRows codes;
  const ConstMatrix values(x.data(), tokens, cols);
  quantize_rows(values, codes, pool);
  std::vector<float> y(static_cast<size_t>(tokens * rows), 1.0f);
  weight->multiply({values, rho.data(), &codes}, Matrix(y.data(), tokens, rows), OutputMode::kAdd,
                   pool);
  for (int64_t t = 0; t < tokens; ++t) {
    double input_step = 0;
    for (int64_t j = 0; j < cols; ++j)
      input_step = std::max(input_step, double(std::fabs(values.at(t, j))) / 127);
    for (int64_t i = 0; i < rows; ++i) {
      double exact = 0;
      double weight_norm = 0;
      for (int64_t j = 0; j < cols; ++j) {
        const double w = dense[static_cast<size_t>(i * cols + j)];
        exact += w * values.at(t, j);
        weight_norm += w * w;
      }
      const double bias = linear.bias.empty() ? 0 : linear.bias[static_cast<size_t>(i)];
      const double expected = 1.0 + bias + exact * 0.37;
      // A code is off by at most half a step; as independent noise that is sqrt(1/12) of a step a
      // column, and the rank vector of a factored term adds as much again: six sigma of both.
      const double scale = std::sqrt(weight_norm * static_cast<double>(cols));
      const double noise = 6 * input_step * std::sqrt(1.0 / 6) * std::sqrt(weight_norm);
      const double second = linear.terms[0].rank > 0 ? 6 * scale * 2.0 / 127 * 0.3 : 0;
      EXPECT_NEAR(y[static_cast<size_t>(t * rows + i)], expected, 0.37 * (noise + second) + 1e-5);
    }
  }
}

TEST(packed_products_follow_the_unpacked_weights) {
  for (const Shape shape : {Shape{5, 64}, Shape{33, 100}, Shape{64, 288}}) {
    for (const int64_t tokens : {1, 5}) {
      expect_product(factored(shape, 32, {}, 1), tokens);
      expect_product(factored(shape, 64, {true, true, true}, 2), tokens);
      if (shape.cols > 64) expect_product(mixed_signs(shape, 3), tokens);
      // As many terms as there may be: their sums are added up two at a time.
      if (shape.cols > 64) expect_product(mixed_signs(shape, 4, 5), tokens);
    }
  }
}

TEST(packed_size_is_predicted_and_matches_the_table_of_the_layout) {
  // Shapes, ranks and bytes of the project's own arithmetic for stories15M.
  const auto size = [](Shape shape, int64_t rank, bool pre) {
    return packed_bytes({shape, false, pre, {{3, rank, shape.cols, false}}});
  };
  EXPECT_EQ(size({288, 288}, 96, true), uint64_t{8096});
  EXPECT_EQ(size({288, 288}, 96, false), uint64_t{7520});
  EXPECT_EQ(size({864, 288}, 160, false), uint64_t{24800});
  EXPECT_EQ(size({288, 768}, 160, false), uint64_t{21728});
  EXPECT_EQ(size({4096, 4096}, 1600, false), uint64_t{1646720});
  EXPECT_EQ(size({11008, 4096}, 2368, false), uint64_t{4492928});
  const PackedLinear linear = factored({33, 100}, 64, {true, true, true}, 4);
  EXPECT_EQ(pack(linear).size(), packed_bytes(packed_size(linear)));
}

TEST(half_vectors_are_normalised_and_the_gain_carries_their_size) {
  const PackedLinear linear = factored({8, 64}, 32, {true, false, false}, 5);
  const Packed packed(linear);
  const PackedView view = parse_packed(packed.bytes, "t");
  float largest = 0;
  for (const Half half : view.s_post) largest = std::max(largest, to_float(half));
  EXPECT(largest >= 0x1p14f && largest < 0x1p15f);
  // gain * s_post * s_pre is what went in, to the rounding of two halves.
  for (size_t i = 0; i < 8; ++i) {
    const double stored =
        double(view.terms[0].view.gain) * to_float(view.s_post[i]) * to_float(view.s_pre[i]);
    const double given = 0.7 * double(linear.s_post[i]) * linear.s_pre[i];
    EXPECT_NEAR(stored / given, 1.0, 2.1 * 0x1p-11);
  }
}

TEST(a_packed_file_that_breaks_its_layout_is_refused_by_name) {
  const PackedLinear linear = factored({33, 100}, 64, {false, true, false}, 6);
  const Packed good(linear);
  const auto broken = [&](size_t at, uint8_t value) {
    Packed bad = good;
    bad.bytes[at] = std::byte{value};
    return bad.bytes;
  };
  parse_packed(good.bytes, "t");
  const auto corrupt = ErrorCode::kCorruptFile;
  const auto unsupported = ErrorCode::kUnsupportedFormat;
  EXPECT_ERROR(unsupported, "tag", parse_packed(broken(3, '2'), "t"));
  EXPECT_ERROR(corrupt, "terms", parse_packed(broken(4, 0), "t"));
  EXPECT_ERROR(corrupt, "terms", parse_packed(broken(4, 9), "t"));
  EXPECT_ERROR(unsupported, "flag", parse_packed(broken(5, 4), "t"));
  EXPECT_ERROR(unsupported, "reserved", parse_packed(broken(6, 1), "t"));
  EXPECT_ERROR(unsupported, "kind", parse_packed(broken(16, 4), "t"));  // sign_g: not built
  EXPECT_ERROR(unsupported, "kind", parse_packed(broken(16, 6), "t"));
  EXPECT_ERROR(unsupported, "flag", parse_packed(broken(17, 2), "t"));
  EXPECT_ERROR(corrupt, "rank", parse_packed(broken(18, 0), "t"));
  EXPECT_ERROR(corrupt, "columns", parse_packed(broken(20, 32), "t"));
  EXPECT_ERROR(corrupt, "columns", parse_packed(broken(24, 101), "t"));
  EXPECT_ERROR(corrupt, "columns", parse_packed(broken(24, 50), "t"));
  EXPECT_ERROR(corrupt, "gain", parse_packed(broken(31, 0x7F), "t"));
  // The bias ends at 32 + 4 * 33; the first half of s_post follows: make it denormal.
  EXPECT_ERROR(corrupt, "s_post", parse_packed(broken(32 + 132 + 1, 0), "t"));
  Packed longer = good;
  longer.bytes.resize(longer.bytes.size() + 32);
  EXPECT_ERROR(corrupt, "length", parse_packed(longer.bytes, "t"));
}

TEST(a_packed_file_cut_anywhere_is_refused) {
  const Packed good(factored({9, 70}, 32, {true, true, true}, 7));
  for (size_t length = 0; length < good.bytes.size(); ++length) {
    // An exact-size copy, so that a read past the end is caught by the sanitizer.
    const std::vector<std::byte> cut(good.bytes.begin(),
                                     good.bytes.begin() + static_cast<std::ptrdiff_t>(length));
    try {
      parse_packed(cut, "t");
      EXPECT(false);
    } catch (const Error& error) {
      EXPECT(error.code() == ErrorCode::kCorruptFile);
    }
  }
}

TEST(the_shape_a_model_expects_must_be_the_shape_in_the_file) {
  const Packed good(factored({9, 70}, 32, {}, 8));
  EXPECT_ERROR(ErrorCode::kCorruptFile, "expected 9 x 64",
               packed_format().view(good.tensor, {9, 64}));
  EXPECT_ERROR(ErrorCode::kCorruptFile, "expected 8 x 70",
               packed_format().view(good.tensor, {8, 70}));
}

TEST(packed_products_do_not_depend_on_threads_or_on_how_many_tokens_go_together) {
  const PackedLinear linear = factored({40, 96}, 64, {}, 9);
  const Packed packed(linear);
  const auto weight = packed_format().view(packed.tensor, linear.shape);
  Rng rng(3);
  std::vector<float> x(6 * 96);
  for (float& v : x) v = rng.normal();
  const auto run = [&](int64_t first, int64_t tokens, int threads) {
    ThreadPool pool(threads);
    QuantizedRows codes;
    const ConstMatrix values(x.data() + first * 96, tokens, 96);
    quantize_rows(values, codes, pool);
    std::vector<float> y(static_cast<size_t>(tokens * 40));
    weight->multiply({values, nullptr, &codes}, Matrix(y.data(), tokens, 40),
                     OutputMode::kOverwrite, pool);
    return y;
  };
  const auto together = run(0, 6, 1);
  EXPECT(together == run(0, 6, 3));
  for (int64_t t = 0; t < 6; ++t) {
    const auto alone = run(t, 1, 2);
    EXPECT(std::memcmp(alone.data(), together.data() + t * 40, 40 * sizeof(float)) == 0);
  }
}

}  // namespace
}  // namespace subbit
