// The term `code84`: encoding, and a product that writes the eight words out and leaves the rest to
// the sign kernels.
#include "formats/code84/code84.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <string>

#include "base/check.h"
#include "formats/signs/layout.h"
#include "formats/signs/sign_dot.h"

namespace subbit {
namespace {

constexpr int64_t kStoredWords = kCode84Stored / kChunk;
constexpr int64_t kExpandedWords = kCode84Columns / kChunk;

/// Bit `t` of a code word, from its four stored bits.
unsigned code_bit(unsigned code, int t) {
  // Stored word 0 always counts, word k + 1 where bit k of t is set.
  return static_cast<unsigned>(std::popcount(code & (1u | static_cast<unsigned>(t) << 1))) & 1u;
}

/// The words of four rows.
struct Unit {
  uint64_t rows[2];
};
static_assert(sizeof(Unit) == kUnitBytes);

Unit operator^(const Unit& a, const Unit& b) {
  return {{a.rows[0] ^ b.rows[0], a.rows[1] ^ b.rows[1]}};
}

/// The sign words of one quad, from its stored words: seven XORs a block.
void expand_quad(const SignWords& matrix, int64_t quad, std::byte* units) {
  const int64_t blocks = matrix.columns / kCode84Columns;
  const std::byte* stored = matrix.words + quad * blocks * kStoredWords * kUnitBytes;
  for (int64_t block = 0; block < blocks; ++block) {
    Unit in[kStoredWords];
    Unit out[kExpandedWords];
    std::memcpy(in, stored + block * static_cast<int64_t>(sizeof(in)), sizeof(in));
    out[0] = in[0];
    out[1] = out[0] ^ in[1];
    for (int t = 0; t < 2; ++t) out[2 + t] = out[t] ^ in[2];
    for (int t = 0; t < 4; ++t) out[4 + t] = out[t] ^ in[3];
    std::memcpy(units + block * static_cast<int64_t>(sizeof(out)), out, sizeof(out));
  }
}

class Code84Term final : public TermKind {
 public:
  uint8_t tag() const override { return 2; }
  std::string_view name() const override { return "code84"; }
  int64_t column_unit() const override { return kCode84Columns; }
  uint64_t word_bytes(const TermShape& shape) const override {
    return sign_bytes(shape.rows, shape.columns / 2);
  }

  void check(const TermView& term, std::string_view where) const override {
    check_sign_padding(term.words, term.shape.rows, term.shape.columns / 2, where);
  }

  void unpack_rows(const TermView& term, int64_t first_row, Matrix out) const override {
    for (int64_t i = 0; i < out.rows; ++i) {
      for (int64_t j = 0; j < out.cols; ++j) {
        const int64_t block = j / kCode84Columns;
        const int64_t bit = j % kChunk;
        unsigned code = 0;
        for (int64_t k = 0; k < kStoredWords; ++k) {
          const int64_t column = block * kCode84Stored + k * kChunk + bit;
          const int sign = unpack_sign(term.words, first_row + i, column, term.shape.columns / 2);
          code |= (sign > 0 ? 1u : 0u) << k;
        }
        const auto word = static_cast<int>(j % kCode84Columns / kChunk);
        out.at(i, j) = code_bit(code, word) != 0 ? 1.0f : -1.0f;
      }
    }
  }

  void multiply(const TermView& term, const SignOperand& input, TermSums out,
                MultiplyScratch& /*scratch*/, ThreadPool& pool) const override {
    const SignWords matrix = {term.words.data(), term.shape.rows, term.shape.columns,
                              term.first_column / kChunk, expand_quad};
    for (size_t token = 0; token < out.exponents.size(); ++token) {
      out.exponents[token] = input.codes.exponents[static_cast<int64_t>(token)];
    }
    sign_dot(matrix, input, out.sums, pool, out.done);
  }
};

}  // namespace

const TermKind& code84_term() {
  static const Code84Term kind;
  return kind;
}

std::array<int8_t, kCode84Length> code84_signs(uint8_t code) {
  std::array<int8_t, kCode84Length> signs{};
  for (int t = 0; t < kCode84Length; ++t) {
    signs[static_cast<size_t>(t)] = code_bit(code, t) != 0 ? 1 : -1;
  }
  return signs;
}

uint8_t nearest_code84(const std::array<float, kCode84Length>& values) {
  // The sign of word t is -(-1)^(b0 + t.b), so sum(sign * value) is -(-1)^b0 times coefficient
  // b = (b1, b2, b3) of the Walsh-Hadamard transform: the largest |coefficient| wins.
  std::array<float, kCode84Length> c = values;
  for (size_t step = 1; step < c.size(); step *= 2) {
    for (size_t t = 0; t < c.size(); ++t) {
      if (t & step) continue;
      const float a = c[t];
      const float b = c[t + step];
      c[t] = a + b;
      c[t + step] = a - b;
    }
  }
  size_t best = 0;
  for (size_t k = 1; k < c.size(); ++k) {
    if (std::fabs(c[k]) > std::fabs(c[best])) best = k;
  }
  return static_cast<uint8_t>(best << 1 | (c[best] >= 0 ? 1u : 0u));
}

SignMatrix expand_code84(const SignMatrix& stored) {
  CHECK(stored.cols % kCode84Stored == 0);
  SignMatrix signs{stored.rows, 2 * stored.cols, {}};
  signs.bits.resize(static_cast<size_t>(signs.rows * signs.cols));
  for (int64_t i = 0; i < signs.rows; ++i) {
    for (int64_t j = 0; j < signs.cols; ++j) {
      const uint8_t* block =
          stored.bits.data() + i * stored.cols + j / kCode84Columns * kCode84Stored;
      unsigned code = 0;
      for (int64_t k = 0; k < kStoredWords; ++k) {
        code |= (block[k * kChunk + j % kChunk] != 0 ? 1u : 0u) << k;
      }
      const auto word = static_cast<int>(j % kCode84Columns / kChunk);
      signs.bits[static_cast<size_t>(i * signs.cols + j)] =
          static_cast<uint8_t>(code_bit(code, word));
    }
  }
  return signs;
}

}  // namespace subbit
