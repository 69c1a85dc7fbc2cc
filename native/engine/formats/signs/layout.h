// How signs lie in memory, for every format that stores them. The unit is 16 bytes: one 32-column
// word of each of 4 consecutive rows. A matrix of R rows and K columns is its units in order of
// quad (4 rows), then word:
//
//   word of row i, columns 32w .. 32w+31   at byte 16 * ((i / 4) * Kw + w) + 4 * (i % 4)
//   bit j of that word                     is column 32w + j; 1 is +1, 0 is -1
//
// with Kw = ceil(K / 32). Padding bits (rows past R, columns past K) are zero. No kernel's tile,
// pass or lane count enters, so one set of bytes serves CPU, GPU and mmap.
#pragma once

#include <bit>
#include <cstdint>

namespace subbit {

static_assert(std::endian::native == std::endian::little, "packed words are little endian");

inline constexpr int64_t kChunk = 32;      // columns of one word, and of one activation scale
inline constexpr int64_t kQuad = 4;        // rows of one unit
inline constexpr int64_t kUnitBytes = 16;  // kQuad words of 4 bytes

inline int64_t chunks_of(int64_t columns) { return (columns + kChunk - 1) / kChunk; }
inline int64_t quads_of(int64_t rows) { return (rows + kQuad - 1) / kQuad; }

inline uint64_t sign_bytes(int64_t rows, int64_t columns) {
  return static_cast<uint64_t>(kUnitBytes) * static_cast<uint64_t>(quads_of(rows)) *
         static_cast<uint64_t>(chunks_of(columns));
}

/// Index, in 32-bit words, of the word of `row` that holds columns 32 * chunk onwards.
inline int64_t sign_word_index(int64_t row, int64_t chunk, int64_t chunks) {
  return kQuad * ((row / kQuad) * chunks + chunk) + row % kQuad;
}

}  // namespace subbit
