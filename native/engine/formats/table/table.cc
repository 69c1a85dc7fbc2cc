// The term `table`. An entry is an integer of -127..127, so a row's product with the loaded codes m
// (signs/loaded_codes.h) is an integer too, and the term yields it rounded once:
//
//   J = sum_c (sum_j w_j m_j) << s_c        exact, |J| < 2^(ceil(log2 K) + 14 + D) <= 2^37
//   I = (J + 2^(R-1)) >> R                  R = max(0, ceil(log2 K) + 14 + D - 30); I = J if R = 0
//
// with K the term's columns in whole chunks; |I| <= 2^30, and the exponent grows by R. Scaling the
// entries down to signs' range beforehand would have cost bits of every code; this way the error is
// half a unit of what a sign term of the same width counts in.
#include "formats/table/table.h"

#include <algorithm>
#include <bit>
#include <string>

#include "base/check.h"
#include "formats/signs/index_matrix.h"
#include "formats/signs/layout.h"
#include "formats/signs/sign_dot.h"
#include "formats/table/table_dot.h"

namespace subbit {
namespace {

constexpr int kSumBits = 30;
constexpr int kProductBits = 14;  // 127 * 127 < 2^14

int64_t vectors_in(const TermShape& shape) { return vectors_of(shape.columns, shape.table_width); }

/// R of the formula above.
int rounding_shift(int64_t chunks, int headroom) {
  const int log2_up = std::bit_width(static_cast<uint64_t>(chunks * kChunk - 1));
  return std::max(0, log2_up + kProductBits + headroom - kSumBits);
}

class TableTerm final : public TermKind {
 public:
  uint8_t tag() const override { return 5; }
  std::string_view name() const override { return "table"; }
  TermParameter parameter() const override { return TermParameter::kTable; }
  uint64_t word_bytes(const TermShape& shape) const override {
    return index_bytes(shape.rows, vectors_in(shape));
  }

  void check(const TermView& term, std::string_view where) const override {
    check_index_padding(term.words, term.shape.rows, vectors_in(term.shape), where);
  }

  void unpack_rows(const TermView& term, int64_t first_row, Matrix out) const override {
    const int64_t width = term.shape.table_width;
    const int64_t vectors = vectors_in(term.shape);
    for (int64_t i = 0; i < out.rows; ++i) {
      for (int64_t j = 0; j < out.cols; ++j) {
        const int64_t at = index_offset(first_row + i, j / width, vectors);
        const auto index = static_cast<int64_t>(term.words[static_cast<size_t>(at)]);
        out.at(i, j) = term.table[static_cast<size_t>(index * width + j % width)];
      }
    }
  }

  void multiply(const TermView& term, const SignOperand& input, TermSums out,
                MultiplyScratch& /*scratch*/, ThreadPool& pool) const override {
    const int64_t chunks = chunks_of(term.shape.columns);
    const int64_t first_chunk = term.first_column / kChunk;
    CHECK(first_chunk + chunks <= input.codes.chunks && out.sums.rows == input.codes.rows);
    const LoadedCodes& codes = codes_for(input, 0);
    TableTask task;
    task.indices = reinterpret_cast<const uint8_t*>(term.words.data());
    task.table = term.table.data();
    task.width = term.shape.table_width;
    task.rows = term.shape.rows;
    task.vectors = vectors_in(term.shape);
    task.codes = codes.codes.data() + first_chunk * kChunk;
    task.shifts = codes.shifts.data() + first_chunk;
    task.code_chunks = input.codes.chunks;
    task.rounding_shift = rounding_shift(chunks, input.codes.headroom);
    for (size_t token = 0; token < out.exponents.size(); ++token) {
      out.exponents[token] =
          input.codes.exponents[static_cast<int64_t>(token)] + task.rounding_shift;
    }
    table_dot(*table_kernels().front(), task, out.sums, pool, out.done);
  }
};

}  // namespace

const TermKind& table_term() {
  static const TableTerm kind;
  return kind;
}

}  // namespace subbit
