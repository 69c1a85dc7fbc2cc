// A matrix of index bytes, each standing for `width` consecutive columns, and its place in memory:
// the same units as sign words (layout.h), a word being four index bytes of one row.
//
//   index of row i, vector v   at byte 16 * ((i / 4) * Kw + v / 4) + 4 * (i % 4) + v % 4
//
// with Kw = ceil(vectors / 4). Padding bytes are zero.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace subbit {

inline constexpr int64_t kWordIndices = 4;

/// Row-major [rows, cols]; a column is one vector of the table.
struct IndexMatrix {
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<uint8_t> values;
};

/// Index bytes that a row of `columns` weights takes.
inline int64_t vectors_of(int64_t columns, int64_t width) { return (columns + width - 1) / width; }

uint64_t index_bytes(int64_t rows, int64_t vectors);
/// Byte offset of one index among `vectors` a row.
int64_t index_offset(int64_t row, int64_t vector, int64_t vectors);

/// Appends the packed bytes to `out`: exactly index_bytes(rows, cols).
void pack_indices(const IndexMatrix& indices, std::vector<std::byte>& out);

/// Throws kCorruptFile, naming `where`, unless every padding byte is zero.
void check_index_padding(std::span<const std::byte> words, int64_t rows, int64_t vectors,
                         std::string_view where);

}  // namespace subbit
