// Term kind 1, `sign`: one sign a weight. Its words are one sign matrix [rows, columns] in the
// layout of formats/signs/layout.h and nothing else.
#include "formats/sign/sign.h"

#include "base/check.h"
#include "formats/signs/layout.h"
#include "formats/signs/sign_dot.h"
#include "formats/signs/sign_matrix.h"

namespace subbit {
namespace {

class SignTerm final : public TermKind {
 public:
  uint8_t tag() const override { return 1; }
  std::string_view name() const override { return "sign"; }
  uint64_t word_bytes(const TermShape& shape) const override {
    return sign_bytes(shape.rows, shape.columns);
  }
  void check(const TermView& term, std::string_view where) const override {
    check_sign_padding(term.words, term.shape.rows, term.shape.columns, where);
  }
  void unpack_rows(const TermView& term, int64_t first_row, Matrix out) const override {
    for (int64_t i = 0; i < out.rows; ++i) {
      for (int64_t j = 0; j < out.cols; ++j) {
        const int sign = unpack_sign(term.words, first_row + i, j, term.shape.columns);
        out.at(i, j) = static_cast<float>(sign);
      }
    }
  }
  void multiply(const TermView& term, const SignOperand& input, TermSums out,
                MultiplyScratch& /*scratch*/, ThreadPool& pool) const override {
    const SignWords matrix = {term.words.data(), term.shape.rows, term.shape.columns,
                              term.first_column / kChunk};
    for (size_t token = 0; token < out.exponents.size(); ++token) {
      out.exponents[token] = input.codes.exponents[static_cast<int64_t>(token)];
    }
    sign_dot(matrix, input, out.sums, pool, out.done);
  }
};

}  // namespace

const TermKind& sign_term() {
  static const SignTerm kind;
  return kind;
}

}  // namespace subbit
