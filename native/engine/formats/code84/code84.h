// Term kind 2, `code84`: half a bit a weight. A row's signs are taken 256 at a time as eight words
// of 32, and bit j of the eight words is one of the 16 words of the [8,4,4] code (the extended
// Hamming code), so four stored words give them all by XOR:
//
//   word t = i0 ^ (t & 1 ? i1 : 0) ^ (t & 2 ? i2 : 0) ^ (t & 4 ? i3 : 0)       t = 0..7
//
// Words i0..i3 of block b are columns 128b .. 128b + 127 of a stored sign matrix [rows,
// columns / 2], laid out as signs/layout.h says. Bit j of word t stands for column
// 256b + 32t + j. A table of learned words would fit 1 % better and cost a table and look-ups.
#pragma once

#include <array>
#include <cstdint>

#include "formats/signs/sign_matrix.h"
#include "formats/term.h"

namespace subbit {

const TermKind& code84_term();

inline constexpr int64_t kCode84Columns = 256;  // of one block
inline constexpr int64_t kCode84Stored = 128;   // stored signs of one block
inline constexpr int kCode84Length = 8;         // signs a code word stands for, 32 columns apart
inline constexpr int kCode84Words = 16;

/// The code word nearest to eight values in columns 32 apart: the one whose signs have the largest
/// sum of sign * value. With values weight_t * h_t it is the nearest under importances h_t. Bit k
/// belongs in stored word k. Ties go to the smallest of the largest Walsh-Hadamard coefficients.
uint8_t nearest_code84(const std::array<float, kCode84Length>& values);

/// The signs, +1 or -1, of a code word.
std::array<int8_t, kCode84Length> code84_signs(uint8_t code);

/// Stored signs [rows, columns / 2] -> the signs they stand for [rows, columns].
SignMatrix expand_code84(const SignMatrix& stored);

}  // namespace subbit
