// The term kinds `sign`, `code84` and `table`: exact sums against the definition, bytes, refusals.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "base/rng.h"
#include "formats/code84/code84.h"
#include "formats/packed/layout.h"
#include "formats/packed/pack.h"
#include "formats/packed/packed.h"
#include "formats/registry.h"
#include "formats/signs/layout.h"
#include "formats/signs/multiply_scratch.h"
#include "formats/signs/sign_dot.h"
#include "formats/table/table_dot.h"
#include "support/test.h"

namespace subbit {
namespace {

SignMatrix random_signs(int64_t rows, int64_t cols, Rng& rng) {
  SignMatrix signs{rows, cols, std::vector<uint8_t>(static_cast<size_t>(rows * cols))};
  for (uint8_t& bit : signs.bits) bit = rng.next() & 1;
  return signs;
}

/// Tables as a checkpoint holds them, to look up by number.
struct Tables {
  std::vector<std::vector<int8_t>> entries;
  std::vector<TensorView> views;

  void add(int64_t width, std::vector<int8_t> values) {
    entries.push_back(std::move(values));
    views.push_back({"model.tables." + std::to_string(views.size()),
                     DType::kI8,
                     {kTableEntries, width},
                     std::as_bytes(std::span(entries.back()))});
  }
  SharedTables find() const {
    return [this](int number) {
      return number < static_cast<int>(views.size()) ? &views[static_cast<size_t>(number)]
                                                     : nullptr;
    };
  }
};

enum class Entries { kRandom, kLargest };

Tables three_tables(Entries kind, uint64_t seed) {
  Rng rng(seed);
  Tables tables;
  tables.entries.reserve(3);  // views point into the vectors
  for (const int64_t width : {4, 8, 16}) {
    std::vector<int8_t> values(static_cast<size_t>(kTableEntries * width));
    for (int8_t& v : values) {
      v = static_cast<int8_t>(kind == Entries::kLargest ? (rng.next() & 1 ? 127 : -127)
                                                        : static_cast<int>(rng.next() % 255) - 127);
    }
    tables.add(width, std::move(values));
  }
  return tables;
}

int number_of(int64_t width) { return width == 4 ? 0 : width == 8 ? 1 : 2; }

/// A run of columns in one kind: "sign", "code84", or "table" of a width.
struct Run {
  std::string kind;
  int64_t first = 0;
  int64_t columns = 0;
  int64_t width = 0;
  float gain = 1.0f;
};

PackedTerm term_of(const Run& run, int64_t rows, Rng& rng) {
  PackedTerm term;
  term.kind = find_term_kind(run.kind)->tag();
  term.first_column = run.first;
  term.columns = run.columns;
  term.gain = run.gain;
  if (run.kind == "sign") term.matrices = {random_signs(rows, run.columns, rng)};
  if (run.kind == "code84") term.matrices = {random_signs(rows, run.columns / 2, rng)};
  if (run.kind == "table") {
    term.table_width = run.width;
    term.table_number = number_of(run.width);
    const int64_t vectors = vectors_of(run.columns, run.width);
    term.indices = {rows, vectors, std::vector<uint8_t>(static_cast<size_t>(rows * vectors))};
    for (uint8_t& index : term.indices.values) index = static_cast<uint8_t>(rng.next());
  }
  return term;
}

PackedLinear linear_of(Shape shape, const std::vector<Run>& runs, uint64_t seed) {
  Rng rng(seed);
  PackedLinear linear;
  linear.shape = shape;
  linear.s_post.assign(static_cast<size_t>(shape.rows), 1.0f);
  for (const Run& run : runs) linear.terms.push_back(term_of(run, shape.rows, rng));
  return linear;
}

/// Codes as a model makes them, all at their largest, or over so many exponents that bits are lost.
enum class Codes { kRandom, kLargest, kSpread };

QuantizedRows make_codes(Shape shape, Codes kind, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> values(static_cast<size_t>(shape.count()));
  for (int64_t i = 0; i < shape.count(); ++i) {
    float value = kind == Codes::kRandom ? rng.normal() : (rng.next() & 1 ? 127.0f : -127.0f);
    if (kind == Codes::kSpread) {
      value = std::ldexp(value, -static_cast<int>(i % shape.cols / kChunk % 21));
    }
    values[static_cast<size_t>(i)] = value;
  }
  ThreadPool pool(1);
  QuantizedRows out;
  quantize_rows(ConstMatrix(values.data(), shape.rows, shape.cols), out, pool);
  return out;
}

/// J of one row, literally: weight times code times 2^shift.
int64_t exact_sum(const std::vector<float>& row, const TermView& term, const LoadedCodes& codes,
                  int64_t token) {
  int64_t sum = 0;
  for (int64_t j = 0; j < term.shape.columns; ++j) {
    const int64_t column = term.first_column + j;
    const int64_t code = codes.codes[token * codes.chunks * kChunk + column];
    const int shift = codes.shifts[token * codes.chunks + column / kChunk];
    sum += static_cast<int64_t>(row[static_cast<size_t>(j)]) * code * (int64_t{1} << shift);
  }
  return sum;
}

/// R as the text of formats/table/table.cc has it.
int rounding_shift(const TermView& term, const SignOperand& operand) {
  if (term.shape.table_width > 0) {
    int log2_up = 0;
    while ((int64_t{1} << log2_up) < chunks_of(term.shape.columns) * kChunk) ++log2_up;
    return std::max(0, log2_up + 14 + operand.codes.headroom - 30);
  }
  return 0;
}

/// Every term's sums against the definition, for some thread counts.
void expect_exact(const PackedLinear& linear, const Tables& tables, const QuantizedRows& rows) {
  const std::vector<std::byte> bytes = pack(linear);
  EXPECT_EQ(bytes.size(), packed_bytes(packed_size(linear)));
  const PackedView view = parse_packed(bytes, "t", tables.find());
  SignOperand operand;
  MultiplyScratch scratch;
  for (const auto& [kind, term] : view.terms) {
    std::vector<float> row(static_cast<size_t>(term.shape.columns));
    std::vector<int32_t> sums(static_cast<size_t>(rows.rows * term.shape.rows));
    std::vector<int32_t> exponents(static_cast<size_t>(rows.rows));
    for (const int threads : {1, 3}) {
      ThreadPool pool(threads);
      load_sign_operand(rows, operand, pool);
      const int shift = rounding_shift(term, operand);
      std::fill(sums.begin(), sums.end(), -1);
      const MatrixView<int32_t> out(sums.data(), rows.rows, term.shape.rows);
      std::atomic<int64_t> told{0};
      const auto count = [&](Range run) { told += run.end - run.begin; };
      kind->multiply(term, operand, {out, exponents, rows.rows == 1 ? RowsDone(count) : RowsDone()},
                     scratch, pool);
      EXPECT_EQ(told.load(), rows.rows == 1 ? term.shape.rows : 0);
      for (int64_t i = 0; i < term.shape.rows; ++i) {
        kind->unpack_rows(term, i, Matrix(row.data(), 1, term.shape.columns));
        for (int64_t t = 0; t < rows.rows; ++t) {
          const int64_t exact = exact_sum(row, term, codes_for(operand, 0), t);
          const auto half = static_cast<int64_t>(std::ldexp(1.0, shift) / 2);
          const int64_t expected = (exact + half) >> shift;
          EXPECT(std::abs(expected) <= int64_t{1} << 30);
          EXPECT_EQ(int64_t{out.at(t, i)}, expected);
          EXPECT_EQ(exponents[static_cast<size_t>(t)], operand.codes.exponents[t] + shift);
        }
      }
    }
  }
}

TEST(code84_and_table_terms_are_exact_on_awkward_shapes) {
  const Tables tables = three_tables(Entries::kRandom, 1);
  uint64_t seed = 1;
  for (const int64_t rows : {1, 3, 4, 5, 33}) {
    for (const int64_t tokens : {1, 2, 3, 4, 5, 9}) {
      for (const Codes kind : {Codes::kRandom, Codes::kSpread}) {
        ++seed;
        const int64_t columns = seed % 2 == 0 ? 256 : 768;
        expect_exact(linear_of({rows, columns}, {{"code84", 0, columns}}, seed), tables,
                     make_codes({tokens, columns}, kind, seed));
        for (const int64_t width : {4, 8, 16}) {
          const int64_t odd = std::vector<int64_t>{1, 31, 32, 33, 70, 100, 172, 288}[seed % 8];
          expect_exact(linear_of({rows, odd}, {{"table", 0, odd, width}}, seed), tables,
                       make_codes({tokens, odd}, kind, seed));
        }
      }
    }
  }
}

TEST(code84_and_table_terms_survive_the_largest_codes_entries_and_widths) {
  const Tables tables = three_tables(Entries::kLargest, 2);
  for (const int64_t columns : {4096, 11008}) {
    for (const Codes kind : {Codes::kLargest, Codes::kSpread}) {
      const QuantizedRows codes = make_codes({2, columns}, kind, 3);
      expect_exact(linear_of({5, columns}, {{"code84", 0, columns}}, 4), tables, codes);
      for (const int64_t width : {4, 8, 16}) {
        expect_exact(linear_of({5, columns}, {{"table", 0, columns, width}}, 5), tables, codes);
      }
    }
    // Nothing cancels: every weight 127, every code 127.
    Tables constant;
    constant.entries.reserve(1);
    constant.add(8, std::vector<int8_t>(8 * kTableEntries, 127));
    PackedLinear linear = linear_of({4, columns}, {{"table", 0, columns, 8}}, 6);
    linear.terms[0].table_number = 0;
    std::vector<float> ones(static_cast<size_t>(columns), 127.0f);
    ThreadPool pool(1);
    QuantizedRows codes;
    quantize_rows(ConstMatrix(ones.data(), 1, columns), codes, pool);
    expect_exact(linear, constant, codes);
  }
}

TEST(terms_over_runs_of_columns_see_their_own_codes_only) {
  const Tables tables = three_tables(Entries::kRandom, 7);
  const std::vector<std::vector<Run>> mixes = {
      {{"table", 0, 192, 8}, {"code84", 192, 256}, {"sign", 448, 20}},
      {{"code84", 64, 256}, {"table", 320, 96, 16}},  // columns 0..63 and 416.. have no bits
      {{"sign", 0, 64}, {"sign", 0, 64}, {"table", 64, 32, 4}, {"code84", 128, 256}},
      {{"table", 448, 20, 16}, {"code84", 0, 256}, {"table", 256, 96, 4}},
  };
  uint64_t seed = 10;
  for (const auto& runs : mixes) {
    for (const int64_t tokens : {1, 6}) {
      ++seed;
      expect_exact(linear_of({9, 468}, runs, seed), tables,
                   make_codes({tokens, 468}, Codes::kSpread, seed));
    }
  }
}

TEST(every_table_kernel_gives_the_same_sums) {
  // The widest sums a kernel may meet, over a length that leaves a short last batch of chunks.
  constexpr int64_t kChunks = 11;
  Rng rng(3);
  std::vector<int8_t> weights(kQuad * kChunks * kChunk);
  std::vector<int8_t> codes(kChunks * kChunk);
  for (int8_t& w : weights) w = rng.next() & 1 ? 127 : -127;
  for (int8_t& c : codes) c = rng.next() & 1 ? 127 : -127;
  // Row 0 agrees with every code: nothing cancels.
  std::copy(codes.begin(), codes.end(), weights.begin());
  const std::vector<int16_t> scales(kChunks, 4096);
  for (const TableKernel* kernel : table_kernels()) {
    int64_t sums[kQuad] = {5, 5, 5, 5};
    kernel->dot(weights.data(), codes.data(), scales.data(), kChunks, sums);
    for (int64_t r = 0; r < kQuad; ++r) {
      int64_t expected = 5;
      for (int64_t j = 0; j < kChunks * kChunk; ++j) {
        expected += int64_t{weights[static_cast<size_t>(r * kChunks * kChunk + j)]} *
                    codes[static_cast<size_t>(j)] * 4096;
      }
      EXPECT_EQ(sums[r], expected);
    }
    EXPECT_EQ(sums[0], 5 + kChunks * kChunk * 127 * 127 * 4096);
  }
}

TEST(the_nearest_code_word_is_the_nearest_of_all_sixteen) {
  Rng rng(4);
  for (int trial = 0; trial < 500; ++trial) {
    std::array<float, 8> values;
    for (float& v : values) v = rng.normal();
    const auto score = [&](uint8_t code) {
      const auto signs = code84_signs(code);
      double sum = 0;
      for (size_t t = 0; t < 8; ++t) sum += double(values[t]) * signs[t];
      return sum;
    };
    double best = -1e9;
    for (uint8_t code = 0; code < kCode84Words; ++code) best = std::max(best, score(code));
    EXPECT_NEAR(score(nearest_code84(values)), best, 1e-5);
  }
}

TEST(code84_words_differ_in_four_places_or_in_all_eight) {
  for (uint8_t a = 0; a < kCode84Words; ++a) {
    for (uint8_t b = 0; b < a; ++b) {
      int distance = 0;
      for (size_t t = 0; t < 8; ++t) distance += code84_signs(a)[t] != code84_signs(b)[t];
      EXPECT(distance == 4 || distance == 8);
    }
  }
}

TEST(code84_weights_are_the_expanded_signs) {
  const PackedLinear linear = linear_of({6, 512}, {{"code84", 0, 512}}, 8);
  const std::vector<std::byte> bytes = pack(linear);
  const PackedView view = parse_packed(bytes, "t");
  EXPECT_EQ(view.terms[0].view.words.size(), size_t{2 * 16 * 8});  // half a bit a weight
  const SignMatrix signs = expand_code84(linear.terms[0].matrices[0]);
  std::vector<float> row(512);
  for (int64_t i = 0; i < 6; ++i) {
    view.terms[0].kind->unpack_rows(view.terms[0].view, i, Matrix(row.data(), 1, 512));
    for (int64_t block = 0; block < 2; ++block) {
      for (int64_t j = 0; j < kChunk; ++j) {
        std::array<float, 8> values;
        for (size_t t = 0; t < 8; ++t) {
          const auto column = static_cast<size_t>(256 * block + kChunk * int64_t(t) + j);
          values[t] = row[column];
          EXPECT_EQ(values[t] > 0, signs.bits[static_cast<size_t>(i) * 512 + column] != 0);
        }
        // A code word is nearest to itself, and its bits are the stored ones.
        const uint8_t code = nearest_code84(values);
        for (int64_t k = 0; k < 4; ++k) {
          const int64_t at = i * 256 + 128 * block + kChunk * k + j;
          EXPECT_EQ(int(linear.terms[0].matrices[0].bits[static_cast<size_t>(at)]), code >> k & 1);
        }
      }
    }
  }
}

TEST(a_ternary_matrix_is_exact_in_two_sign_terms) {
  Rng rng(5);
  const Shape shape = {7, 100};
  std::vector<int> ternary(static_cast<size_t>(shape.count()));
  PackedLinear linear = linear_of(shape, {{"sign", 0, 100}, {"sign", 0, 100}}, 6);
  for (PackedTerm& term : linear.terms) term.gain = 0.3f / 2;
  for (size_t k = 0; k < ternary.size(); ++k) {
    ternary[k] = static_cast<int>(rng.next() % 3) - 1;
    linear.terms[0].matrices[0].bits[k] = ternary[k] >= 0;  // zero is (+1, -1)
    linear.terms[1].matrices[0].bits[k] = ternary[k] > 0;
  }
  const std::vector<std::byte> bytes = pack(linear);
  const TensorView tensor = {"t", DType::kU8, {std::ssize(bytes)}, bytes};
  const auto weight = packed_format().view(tensor, shape);
  std::vector<float> values(ternary.size());
  weight->unpack_rows(0, Matrix(values.data(), shape.rows, shape.cols));
  for (size_t k = 0; k < ternary.size(); ++k) {
    EXPECT_EQ(values[k], 0.3f * static_cast<float>(ternary[k]));
  }
  // The product too: a row of zeros gives nothing but the one rounding of I_0 * G before the fma.
  for (int64_t j = 0; j < shape.cols; ++j) {
    linear.terms[0].matrices[0].bits[static_cast<size_t>(j)] = 1;
    linear.terms[1].matrices[0].bits[static_cast<size_t>(j)] = 0;
  }
  const std::vector<std::byte> zero = pack(linear);
  const TensorView zero_tensor = {"t", DType::kU8, {std::ssize(zero)}, zero};
  const QuantizedRows codes = make_codes({3, 100}, Codes::kSpread, 7);
  std::vector<float> input(300);
  std::vector<float> y(21, 1.0f);
  ThreadPool pool(1);
  packed_format()
      .view(zero_tensor, shape)
      ->multiply({ConstMatrix(input.data(), 3, 100), nullptr, &codes}, Matrix(y.data(), 3, 7),
                 OutputMode::kOverwrite, pool);
  const double largest = 100 * 127 * (0.3 / 2);
  for (size_t t = 0; t < 3; ++t) EXPECT_NEAR(y[7 * t], 0.0, largest * 0x1p-24);
}

TEST(two_bits_are_two_sign_terms_of_gains_two_and_one) {
  PackedLinear linear =
      linear_of({5, 64}, {{"sign", 0, 64, 0, 0.5f}, {"sign", 0, 64, 0, 0.25f}}, 9);
  const std::vector<std::byte> bytes = pack(linear);
  EXPECT_EQ(bytes.size(), size_t{64 + 2 * 64});  // 2 bits a weight and one aligned head
  const TensorView tensor = {"t", DType::kU8, {std::ssize(bytes)}, bytes};
  std::vector<float> values(320);
  packed_format().view(tensor, linear.shape)->unpack_rows(0, Matrix(values.data(), 5, 64));
  for (size_t k = 0; k < 320; ++k) {
    const float high = linear.terms[0].matrices[0].bits[k] ? 0.5f : -0.5f;
    const float low = linear.terms[1].matrices[0].bits[k] ? 0.25f : -0.25f;
    EXPECT_EQ(values[k], high + low);
  }
}

TEST(what_a_linear_is_made_of_can_be_read) {
  const Tables tables = three_tables(Entries::kRandom, 7);
  const auto bytes = pack(linear_of({4, 448}, {{"table", 0, 192, 8}, {"code84", 192, 256}}, 1));
  const TensorView tensor = {"t", DType::kU8, {std::ssize(bytes)}, bytes};
  EXPECT_EQ(packed_format().view(tensor, {4, 448}, tables.find())->describe(),
            std::string("packed: table d=8 cols 0-191 + code84 cols 192-447"));
}

TEST(tables_that_are_missing_or_wrong_are_refused_by_name) {
  const auto bytes = pack(linear_of({4, 64}, {{"table", 0, 64, 8}}, 1));
  const auto view = [&](const SharedTables& tables) { return parse_packed(bytes, "t", tables); };
  const auto corrupt = ErrorCode::kCorruptFile;
  EXPECT_ERROR(corrupt, "shared table 1 is missing", parse_packed(bytes, "t"));
  EXPECT_ERROR(corrupt, "shared table 1 is missing", view([](int) { return nullptr; }));
  Tables tables = three_tables(Entries::kRandom, 2);
  view(tables.find());
  TensorView good = tables.views[1];
  TensorView& table = tables.views[1];
  table.shape = {kTableEntries, 4};
  EXPECT_ERROR(corrupt, "shared table 1 (model.tables.1)", view(tables.find()));
  table.shape = {2048};
  EXPECT_ERROR(corrupt, "I8 2048", view(tables.find()));
  table = good;
  table.dtype = DType::kU8;
  EXPECT_ERROR(corrupt, "U8 256 8", view(tables.find()));
  table = good;
  tables.entries[1][777] = -128;
  EXPECT_ERROR(corrupt, "-128", view(tables.find()));
}

TEST(code84_and_table_terms_that_break_their_layout_are_refused) {
  const Tables tables = three_tables(Entries::kRandom, 2);
  const auto corrupt = ErrorCode::kCorruptFile;
  const auto broken = [&](std::vector<std::byte> bytes, size_t at, uint8_t value) {
    bytes[at] = std::byte{value};
    return parse_packed(bytes, "t", tables.find());
  };
  // 5 rows of 100 columns: 13 vectors in 4 words, so bytes 13..15 of a row's words are padding.
  const auto table = pack(linear_of({5, 100}, {{"table", 0, 100, 8}}, 1));
  const size_t words = table.size() - 2 * 4 * 16;
  EXPECT_ERROR(corrupt, "4, 8 or 16", broken(table, 18, 5));
  EXPECT_ERROR(corrupt, "4, 8 or 16", broken(table, 18, 0));
  EXPECT_ERROR(corrupt, "shared table 9", broken(table, 19, 9));
  EXPECT_ERROR(ErrorCode::kUnsupportedFormat, "flag", broken(table, 17, 1));
  EXPECT_ERROR(corrupt, "padding", broken(table, words + 3 * 16 + 1, 1));       // vector 13
  EXPECT_ERROR(corrupt, "padding", broken(table, words + 64 + 3 * 16 + 4, 1));  // row 5

  const auto code = pack(linear_of({5, 288}, {{"code84", 0, 256}}, 1));
  EXPECT_ERROR(corrupt, "rank", broken(code, 18, 1));
  EXPECT_ERROR(corrupt, "multiple of 256", broken(code, 24, 32));  // 288 columns
  EXPECT_ERROR(corrupt, "padding", broken(code, code.size() - 4, 1));
  const auto sign = pack(linear_of({5, 64}, {{"sign", 0, 64}}, 1));
  EXPECT_ERROR(ErrorCode::kUnsupportedFormat, "flag", broken(sign, 17, 1));  // no rank, no s_mid
}

TEST(table_and_code84_files_cut_anywhere_are_refused) {
  const Tables tables = three_tables(Entries::kRandom, 2);
  const auto good = pack(linear_of({5, 320}, {{"table", 0, 64, 16}, {"code84", 64, 256}}, 3));
  for (size_t length = 0; length < good.size(); ++length) {
    // An exact-size copy, so that a read past the end is caught by the sanitizer.
    const std::vector<std::byte> cut(good.begin(),
                                     good.begin() + static_cast<std::ptrdiff_t>(length));
    EXPECT_ERROR(ErrorCode::kCorruptFile, "packed tensor t", parse_packed(cut, "t", tables.find()));
  }
}

}  // namespace
}  // namespace subbit
