// Term kind 3, `factored`: U diag(s_mid) V with U [rows, rank] and V [rank, columns] in {+1, -1}
// (the double-binary factorization; NanoQuant, DBF, LittleBit). It covers all columns of its
// linear. Its words are V, then U, each in the layout of formats/signs/layout.h.
//
// Arithmetic: the first stage's exact integers, as floats (times s_mid), are quantized as they are;
// their common exponent joins the second stage's, so no scale is multiplied in between.
#include "formats/factored/factored.h"

#include <limits>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/wide_loop.h"
#include "formats/signs/layout.h"
#include "formats/signs/multiply_scratch.h"
#include "formats/signs/sign_dot.h"
#include "formats/signs/sign_matrix.h"

namespace subbit {
namespace {

uint64_t v_bytes(const TermShape& shape) { return sign_bytes(shape.rank, shape.columns); }

/// z = float(sums) (* s_mid) in some of one token's columns.
inline void finish_first_stage(const int32_t* sums, std::span<const Half> s_mid, Range columns,
                               float* z) {
  for (int64_t k = columns.begin; k < columns.end; ++k) z[k] = static_cast<float>(sums[k]);
  if (s_mid.empty()) return;
  for (int64_t k = columns.begin; k < columns.end; ++k)
    z[k] *= to_float(s_mid[static_cast<size_t>(k)]);
}

class FactoredTerm final : public TermKind {
 public:
  uint8_t tag() const override { return 3; }
  std::string_view name() const override { return "factored"; }
  TermParameter parameter() const override { return TermParameter::kRank; }
  uint64_t word_bytes(const TermShape& shape) const override {
    return v_bytes(shape) + sign_bytes(shape.rows, shape.rank);
  }

  void check(const TermView& term, std::string_view where) const override {
    const size_t split = v_bytes(term.shape);
    check_sign_padding(term.words.first(split), term.shape.rank, term.shape.columns, where);
    check_sign_padding(term.words.subspan(split), term.shape.rows, term.shape.rank, where);
  }

  void unpack_rows(const TermView& term, int64_t first_row, Matrix out) const override {
    const size_t split = v_bytes(term.shape);
    const auto v = term.words.first(split);
    const auto u = term.words.subspan(split);
    for (int64_t i = 0; i < out.rows; ++i) {
      for (int64_t j = 0; j < out.cols; ++j) out.at(i, j) = 0.0f;
      for (int64_t k = 0; k < term.shape.rank; ++k) {
        float mid = static_cast<float>(unpack_sign(u, first_row + i, k, term.shape.rank));
        if (!term.s_mid.empty()) mid *= to_float(term.s_mid[static_cast<size_t>(k)]);
        for (int64_t j = 0; j < out.cols; ++j) {
          out.at(i, j) += mid * static_cast<float>(unpack_sign(v, k, j, term.shape.columns));
        }
      }
    }
  }

  void multiply(const TermView& term, const SignOperand& input, TermSums out,
                MultiplyScratch& scratch, ThreadPool& pool) const override {
    const int64_t tokens = out.sums.rows;
    const int64_t rank = term.shape.rank;
    const size_t split = v_bytes(term.shape);
    const MatrixView<int32_t> sums(reserve(scratch.rank_sums, tokens * rank), tokens, rank);
    const Matrix z(reserve(scratch.rank_values, tokens * rank), tokens, rank);
    const SignWords v = {term.words.data(), rank, term.shape.columns, term.first_column / kChunk};
    if (tokens == 1) {  // whoever has made sums goes on with them
      size_quantized_rows(1, rank, scratch.rank_codes);
      sign_dot(v, input, sums, pool, [&](Range rows) {
        run_wide([&] { finish_first_stage(sums.row(0), term.s_mid, rows, z.row(0)); });
        quantize_columns(z, rows, scratch.rank_codes);
      });
    } else {
      sign_dot(v, input, sums, pool);
      wide_parallel_for(pool, tokens, 4, [&](Range range) {
        for (int64_t token = range.begin; token < range.end; ++token)
          finish_first_stage(sums.row(token), term.s_mid, {0, rank}, z.row(token));
      });
      quantize_rows(z, scratch.rank_codes, pool);
    }
    load_sign_operand(scratch.rank_codes, scratch.rank_input, pool);
    for (int64_t token = 0; token < tokens; ++token) {
      out.exponents[static_cast<size_t>(token)] =
          input.codes.exponents[token] + scratch.rank_input.codes.exponents[token];
    }
    sign_dot({term.words.data() + split, term.shape.rows, rank, 0}, scratch.rank_input, out.sums,
             pool, out.done);
  }
};

}  // namespace

const TermKind& factored_term() {
  static const FactoredTerm kind;
  return kind;
}

}  // namespace subbit
