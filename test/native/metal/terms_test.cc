// Linears of several terms, and terms of shared tables: each term's integers to the bit, then
// finish_terms against PackedWeight, to the bit too.
#include <bit>
#include <cmath>

#include "formats/registry.h"
#include "formats/signs/layout.h"
#include "formats/signs/multiply_scratch.h"
#include "formats/signs/sign_dot.h"
#include "metal/gemm.h"
#include "support/metal_linears.h"
#include "support/test.h"

namespace subbit::test {
namespace {

/// A shared table as a checkpoint holds it.
struct Table {
  std::vector<int8_t> entries;
  TensorView view;
};

Table random_table(int64_t width) {
  Rng rng(static_cast<uint64_t>(width));
  Table table;
  table.entries.resize(static_cast<size_t>(kTableEntries * width));
  for (int8_t& entry : table.entries) {
    entry = static_cast<int8_t>(static_cast<int>(rng.next() % 255) - 127);
  }
  table.view = {"model.tables.0",
                DType::kI8,
                {kTableEntries, width},
                std::as_bytes(std::span(table.entries))};
  return table;
}

PackedTerm term_of(std::string_view kind, Shape shape, int64_t first_column, int64_t width) {
  PackedTerm term;
  const auto seed = static_cast<uint64_t>(first_column + shape.cols);
  term.kind = find_term_kind(kind)->tag();
  term.first_column = first_column;
  term.columns = shape.cols;
  term.gain = 0.01f * static_cast<float>(1 + first_column);
  if (kind == "sign") term.matrices = {random_signs(shape.rows, shape.cols, seed)};
  if (kind == "code84") term.matrices = {random_signs(shape.rows, shape.cols / 2, seed)};
  if (kind == "table") {
    Rng rng(seed);
    const int64_t vectors = vectors_of(shape.cols, width);
    term.table_width = width;
    term.indices = {shape.rows, vectors,
                    std::vector<uint8_t>(static_cast<size_t>(shape.rows * vectors))};
    for (uint8_t& index : term.indices.values) index = static_cast<uint8_t>(rng.next());
  }
  return term;
}

/// The arguments of one term over `codes`.
shader::GemvArgs args_of(const TermView& term, const QuantizedRows& codes, int headroom) {
  shader::GemvArgs args{};
  args.rows = static_cast<uint32_t>(term.shape.rows);
  args.chunks = shader::chunks_of_columns(static_cast<uint32_t>(term.shape.columns));
  args.first_chunk = static_cast<uint32_t>(term.first_column / kChunk);
  args.input_chunks = static_cast<uint32_t>(codes.chunks);
  args.headroom = static_cast<uint32_t>(headroom);
  args.lanes_log2 = 4;
  args.pair_quads = 1;
  if (term.shape.table_width > 0) {
    args.table_width = static_cast<uint32_t>(term.shape.table_width);
    args.vectors = static_cast<uint32_t>(vectors_of(term.shape.columns, term.shape.table_width));
    const int log2_up = std::bit_width(args.chunks * 32 - 1);
    args.rounding_shift = static_cast<uint32_t>(std::max(0, log2_up + 14 + headroom - 30));
  }
  return args;
}

/// A prompt's way to the integers of a table, which must be those of decoding.
void expect_table_gemm(shader::GemvArgs args, const std::vector<Binding>& operands,
                       const Binding& table, std::span<const int32_t> wanted) {
  const uint32_t tokens = args.tokens;
  shader::EpilogueArgs epilogue{};
  epilogue.y_stride = args.rows;
  const ExactBuffer<int32_t> sums(wanted.size());
  const ExactBuffer<int32_t> exponents(tokens);
  run_in_every_order({"table_gemm_sums",
                      {shader::gemm_row_groups(args.rows), shader::gemm_token_groups(tokens)},
                      {shader::kGemmThreads},
                      {bytes_of(args), bytes_of(epilogue), operands[0], operands[1], sums.binding(),
                       exponents.binding(), table},
                      {shader::gemm_threadgroup_bytes(2)}},
                     {4, 5});
  for (size_t i = 0; i < wanted.size(); ++i) EXPECT_EQ(sums[i], wanted[i]);
}

/// Runs every term and finish_terms, checking each term's integers on the way.
std::vector<float> run_terms(const PackedView& view, const QuantizedRows& codes,
                             const std::vector<uint32_t>& qvecs, const std::vector<float>& h) {
  const auto tokens = static_cast<uint32_t>(codes.rows);
  const auto rows = static_cast<uint32_t>(view.shape.rows);
  ThreadPool pool(1);
  SignOperand operand;
  load_sign_operand(codes, operand, pool);
  MultiplyScratch scratch;
  const ExactBuffer<uint32_t> input(qvecs);
  const ExactBuffer<int32_t> sums(view.terms.size() * tokens * rows);
  const ExactBuffer<int32_t> exponents(view.terms.size() * tokens);
  const ExactBuffer<uint32_t> status(1, 0u);
  shader::FinishArgs finish{rows, static_cast<uint32_t>(view.terms.size()), 0, tokens,
                            rows, static_cast<uint32_t>(codes.chunks),      {}};
  for (size_t t = 0; t < view.terms.size(); ++t) {
    const auto& [kind, term] = view.terms[t];
    finish.gains[t] = term.gain;
    shader::GemvArgs args = args_of(term, codes, operand.codes.headroom);
    shader::EpilogueArgs epilogue{};
    epilogue.y_stride = rows;
    const ExactBuffer<std::byte> words(term.words);
    const auto entries = std::as_bytes(term.table);
    const ExactBuffer<std::byte> table(entries.empty() ? std::as_bytes(std::span("none"))
                                                       : entries);
    const std::string prefix(kind->name());
    const Binding own_sums{sums.data() + t * tokens * rows, size_t{4} * tokens * rows};
    const Binding own_exponents{exponents.data() + t * tokens, size_t{4} * tokens};
    run_in_every_order({prefix + "_gemv_sums",
                        {shader::gemv_groups(rows, shader::kGemvThreads, args.lanes_log2), tokens},
                        {shader::kGemvThreads},
                        {bytes_of(args), bytes_of(epilogue), words.binding(), input.binding(),
                         own_sums, own_exponents, table.binding()},
                        {shader::gemv_threadgroup_bytes(shader::kGemvThreads, args.lanes_log2)}},
                       {4, 5});
    std::vector<int32_t> wanted(tokens * rows);
    std::vector<int32_t> wanted_exponents(tokens);
    kind->multiply(term, operand, {{wanted.data(), tokens, rows}, wanted_exponents, {}}, scratch,
                   pool);
    for (size_t i = 0; i < wanted.size(); ++i) {
      EXPECT_EQ(sums[t * tokens * rows + i], wanted[i]);
    }
    for (uint32_t i = 0; i < tokens; ++i) {
      EXPECT_EQ(exponents[t * tokens + i], wanted_exponents[i]);
    }
    args.tokens = tokens;
    if (prefix == "table") {
      expect_table_gemm(args, {words.binding(), input.binding()}, table.binding(), wanted);
    }
  }
  const ExactBuffer<Half> s_post(view.s_post);
  const ExactBuffer<float> bias(1);
  const ExactBuffer<float> y(h);
  run_in_every_order({"finish_terms_add",
                      {(rows + shader::kFinishThreads - 1) / shader::kFinishThreads, tokens},
                      {shader::kFinishThreads},
                      {bytes_of(finish), sums.binding(), exponents.binding(), input.binding(),
                       s_post.binding(), bias.binding(), y.binding(), status.binding()},
                      {}},
                     {6, 7});
  EXPECT_EQ(status[0], 0u);
  return y.values();
}

void expect_linear_exact(const PackedLinear& linear, const Table& table, uint32_t tokens,
                         const std::vector<float>& values) {
  const std::vector<std::byte> bytes = pack(linear);
  const SharedTables tables = [&](int) { return &table.view; };
  const PackedView view = parse_packed(bytes, "test", tables);
  const TensorView tensor{"t.packed", DType::kU8, {std::ssize(bytes)}, bytes};
  const auto weight = find_format("packed")->view(tensor, linear.shape, tables);
  const auto columns = static_cast<size_t>(linear.shape.cols);
  const QuantizedRows codes = cpu_quantize(values, tokens);
  const std::vector<float> rho(tokens, 0.75f);
  const auto h = random_floats(tokens * static_cast<size_t>(linear.shape.rows), 4);
  const auto got = run_terms(view, codes, make_qvecs(codes, rho), h);
  std::vector<float> wanted = h;
  std::vector<float> unread(tokens * columns);
  ThreadPool pool(1);
  weight->multiply({ConstMatrix(unread.data(), tokens, linear.shape.cols), rho.data(), &codes},
                   Matrix(wanted.data(), tokens, linear.shape.rows), OutputMode::kAdd, pool);
  expect_same_words(bits_of(got), bits_of(wanted), describe_packed(view));
}

void expect_linear_exact(const PackedLinear& linear, const Table& table, uint32_t tokens,
                         Values kind = Values::kSpread) {
  const auto columns = static_cast<size_t>(linear.shape.cols);
  expect_linear_exact(linear, table, tokens, make_values(tokens * columns, kind, columns));
}

}  // namespace

TEST(metal_linears_of_several_terms_equal_the_cpu_to_the_bit) {
  for (const int64_t rows : {1, 5, 37}) {
    PackedLinear linear;
    linear.shape = {rows, 512};
    linear.s_post = random_floats(static_cast<size_t>(rows), 1);
    linear.terms = {term_of("sign", {rows, 512}, 0, 0), term_of("sign", {rows, 192}, 64, 0),
                    term_of("code84", {rows, 256}, 256, 0), term_of("table", {rows, 192}, 64, 8)};
    expect_linear_exact(linear, random_table(8), 2);
  }
}

TEST(metal_table_gemv_equals_the_cpu_at_every_width_and_awkward_column_counts) {
  for (const int64_t width : {4, 8, 16}) {
    for (const int64_t columns : {1, 31, 33, 48, 100, 172, 1024}) {
      PackedLinear linear;
      linear.shape = {6, columns};
      linear.s_post = random_floats(6, 2);
      linear.terms = {term_of("table", linear.shape, 0, width)};
      expect_linear_exact(linear, random_table(width), 1);
    }
  }
}

// Tiles and their edges; codes whose exponents wander, so that sums move on in every chunk; and the
// largest there are, so that they fill up.
TEST(metal_table_gemm_gives_the_integers_of_decoding) {
  for (const auto& [shape, tokens, kind] : {std::tuple(Shape{65, 96}, 33u, Values::kNormal),
                                            std::tuple(Shape{3, 1600}, 9u, Values::kSpread),
                                            std::tuple(Shape{64, 992}, 2u, Values::kLargest),
                                            std::tuple(Shape{5, 64}, 8u, Values::kSpread),
                                            std::tuple(Shape{5, 64}, 17u, Values::kSpread)}) {
    PackedLinear linear;
    linear.shape = shape;
    linear.s_post = random_floats(static_cast<size_t>(shape.rows), 2);
    linear.terms = {term_of("table", shape, 0, 8)};
    expect_linear_exact(linear, random_table(8), tokens, kind);
  }
}

// All of one sign: 2048 products of 14 bits, two bits above where they began, are 27 bits.
TEST(metal_table_gemm_moves_its_sums_before_a_float_would_round) {
  Table table = random_table(8);
  for (int8_t& entry : table.entries) entry = static_cast<int8_t>(120 + (entry & 7));
  PackedLinear linear;
  linear.shape = {5, 2048};
  linear.s_post = random_floats(5, 2);
  linear.terms = {term_of("table", linear.shape, 0, 8)};
  std::vector<float> values = random_floats(9 * 2048, 3);
  for (float& value : values) value = 110.0f + std::fabs(value);
  expect_linear_exact(linear, table, 9, values);
}

}  // namespace subbit::test
