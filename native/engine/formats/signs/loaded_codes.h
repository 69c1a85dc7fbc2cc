// Codes brought to one exponent per vector, so that chunk sums add up in integers and a row of
// signs yields one int32, exact in any order of summation.
//
//   e* = max e_c over the vector         D = min(12, 23 - ceil(log2(reach)))
//   t_c = clamp(e* - D - e_c, 0, 7)      m_j = |q_j| >> t_c       s_c = max(0, D - (e* - e_c))
//
// then  sum_c (sum_j sign * m_j) << s_c  times 2^(e* - D) is the dot product with the codes; only
// chunks far below the largest one lose low bits. `reach` bounds what one weight-times-code sum can
// grow by: the columns of a sign matrix; columns times largest |weight| for group formats.
#pragma once

#include <cstdint>

#include "base/buffer.h"
#include "formats/signs/quantized_rows.h"

namespace subbit {

/// D of the formula above.
int headroom_bits(int64_t reach);

struct LoadedCodes {
  int64_t rows = 0;
  int64_t chunks = 0;
  int headroom = 0;            // D
  Buffer<int8_t> codes;        // [rows, chunks * 32]: sign(q_j) * m_j
  Buffer<uint8_t> shifts;      // [rows, chunks]: s_c, 0..12
  Buffer<int32_t> magnitudes;  // [rows, chunks]: (sum of m_j) << s_c
  Buffer<int32_t> exponents;   // [rows]: e* - D; 0 for a vector of zeros
};

/// Memory of LoadedCodes for `rows` vectors of `columns`.
uint64_t loaded_codes_bytes(int64_t rows, int64_t columns);

/// Where the rows of codes go, and all but what they hold.
void size_loaded_codes(const QuantizedRows& rows, int64_t reach, LoadedCodes& out);
/// e* - D of a row.
int32_t common_exponent(const QuantizedRows& rows, int64_t row, int headroom);
/// Loads row `from` as row `to`, in memory that is there.
void load_codes_row(const QuantizedRows& rows, int64_t from, LoadedCodes& out, int64_t to);

/// `reach` as above; at least 1 and below 2^23.
void load_codes(const QuantizedRows& rows, int64_t reach, LoadedCodes& out, ThreadPool& pool);

}  // namespace subbit
