// Activations as every back end quantizes them: 8-bit codes in chunks of 32 columns, each with a
// power-of-two scale. One rounding, no division, nothing a compiler could contract: machines cannot
// disagree by a code.
//
// For chunk c with a = max |v_j|: e_c is the smallest exponent with a <= 127 * 2^e_c, and
// q_j = rint(v_j * 2^-e_c), ties to even, |q_j| <= 127. Below 2^-100 a chunk is zero, e_c = -128.
#pragma once

#include <cstdint>

#include "base/buffer.h"
#include "base/half.h"
#include "base/matrix.h"
#include "base/thread_pool.h"

namespace subbit {

inline constexpr int kZeroChunkExponent = -128;

struct QuantizedRows {
  int64_t rows = 0;          // tokens
  int64_t cols = 0;          // before padding to whole chunks
  int64_t chunks = 0;        // ceil(cols / 32)
  Buffer<int8_t> codes;      // [rows, chunks * 32]; padding columns are zero
  Buffer<int8_t> exponents;  // [rows, chunks]
};

/// Memory of QuantizedRows for `rows` vectors of `columns`.
uint64_t quantized_rows_bytes(int64_t rows, int64_t columns);

/// Makes room for the codes of rows of `cols`, which quantize_columns then fills.
void size_quantized_rows(int64_t rows, int64_t cols, QuantizedRows& out);
/// Quantizes the columns [begin, end) of every row, in whole chunks or up to the last column; from
/// any thread. Throws like quantize_rows.
void quantize_columns(ConstMatrix values, Range columns, QuantizedRows& out);

/// Quantizes [tokens, cols] into `out`, reusing its memory where it is large enough.
/// Throws kNonFinite on a NaN or an infinity: never a silent zero.
void quantize_rows(ConstMatrix values, QuantizedRows& out, ThreadPool& pool);

/// out = the values that the codes of `values` stand for, exactly: seven bits and a sign fit.
/// Throws like quantize_rows.
void round_to_codes(ConstMatrix values, MatrixView<BFloat16> out, ThreadPool& pool);

}  // namespace subbit
