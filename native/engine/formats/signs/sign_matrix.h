// A matrix of signs on its way into or out of the packed layout: one byte a sign, nothing clever.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace subbit {

/// Row-major [rows, cols]; 1 is +1, 0 is -1.
struct SignMatrix {
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<uint8_t> bits;
};

/// Appends the packed words (layout.h) to `out`: exactly sign_bytes(rows, cols).
void pack_signs(const SignMatrix& signs, std::vector<std::byte>& out);

/// The sign, +1 or -1, at (row, column) of a packed matrix of `columns` columns. The reference.
int unpack_sign(std::span<const std::byte> words, int64_t row, int64_t column, int64_t columns);

/// Throws kCorruptFile, naming `where`, unless every padding bit is zero: the same weights must be
/// the same bytes, and a kernel may then ignore where a matrix ends.
void check_sign_padding(std::span<const std::byte> words, int64_t rows, int64_t columns,
                        std::string_view where);

}  // namespace subbit
