// Packing, unpacking and checking of sign words, written for clarity: this is where the layout in
// layout.h becomes code that the kernels are compared with.
#include "formats/signs/sign_matrix.h"

#include <cstring>
#include <string>

#include "base/check.h"
#include "formats/signs/layout.h"

namespace subbit {
namespace {

uint32_t load_word(std::span<const std::byte> words, int64_t index) {
  uint32_t word;
  std::memcpy(&word, words.data() + 4 * index, 4);
  return word;
}

}  // namespace

void pack_signs(const SignMatrix& signs, std::vector<std::byte>& out) {
  CHECK(static_cast<int64_t>(signs.bits.size()) == signs.rows * signs.cols);
  const int64_t chunks = chunks_of(signs.cols);
  const size_t begin = out.size();
  out.resize(begin + sign_bytes(signs.rows, signs.cols));
  for (int64_t row = 0; row < signs.rows; ++row) {
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      uint32_t word = 0;
      for (int64_t j = 0; j < kChunk && chunk * kChunk + j < signs.cols; ++j) {
        const uint32_t bit = signs.bits[row * signs.cols + chunk * kChunk + j] != 0;
        word |= bit << j;
      }
      std::memcpy(out.data() + begin + 4 * sign_word_index(row, chunk, chunks), &word, 4);
    }
  }
}

int unpack_sign(std::span<const std::byte> words, int64_t row, int64_t column, int64_t columns) {
  const int64_t index = sign_word_index(row, column / kChunk, chunks_of(columns));
  return (load_word(words, index) >> (column % kChunk)) & 1u ? 1 : -1;
}

void check_sign_padding(std::span<const std::byte> words, int64_t rows, int64_t columns,
                        std::string_view where) {
  const int64_t chunks = chunks_of(columns);
  const auto refuse = [&](int64_t row) {
    throw Error(ErrorCode::kCorruptFile,
                "padding bits of a sign matrix are not zero in " + std::string(where),
                {{"tensor", std::string(where)}, {"row", std::to_string(row)}});
  };
  if (const int64_t used = columns % kChunk; used != 0) {
    const uint32_t padding = ~((1u << used) - 1u);
    for (int64_t row = 0; row < rows; ++row) {
      if (load_word(words, sign_word_index(row, chunks - 1, chunks)) & padding) refuse(row);
    }
  }
  for (int64_t row = rows; row < quads_of(rows) * kQuad; ++row) {
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      if (load_word(words, sign_word_index(row, chunk, chunks))) refuse(row);
    }
  }
}

}  // namespace subbit
