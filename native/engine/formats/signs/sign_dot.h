// The product every sign format is made of: a packed sign matrix times loaded codes, exact in
// int32. Which instructions do it is chosen once per process; the result cannot tell.
//
// For a row i and the loaded codes m, s, A of a token, with R_c the sum of m_j over the columns of
// chunk c whose weight sign agrees with the code's:  I_i = 2 * sum_c (R_c << s_c) - sum_c A_c.
// |I| < 2^30 and every partial sum stays below 2^31 (headroom_bits sees to it).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/buffer.h"
#include "base/matrix.h"
#include "base/thread_pool.h"
#include "formats/signs/loaded_codes.h"

namespace subbit {

struct SignKernel;  // sign_kernel.h

/// Loaded codes in the form that a kernel reads. Built once per input, shared by every sign
/// matrix that reads it.
struct SignOperand {
  const SignKernel* kernel = nullptr;
  LoadedCodes codes;
  Buffer<uint8_t> tables;  // [tokens, padded chunks, kernel's bytes a chunk]
};

/// Quantized rows -> operand, for sign matrices over `in.cols` columns.
void load_sign_operand(const QuantizedRows& in, SignOperand& out, ThreadPool& pool);

/// Memory of a SignOperand for `rows` vectors of `columns`.
uint64_t sign_operand_bytes(int64_t rows, int64_t columns);

/// A packed matrix standing over columns [first_chunk * 32, ...) of the operand.
struct SignWords {
  const std::byte* words = nullptr;  // layout.h, 16-byte units
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t first_chunk = 0;  // even: kernels read chunks in pairs
  /// For a matrix stored as something shorter: writes the chunks_of(columns) units of one quad to
  /// `units`. Null when `words` are the matrix itself.
  void (*expand)(const SignWords& matrix, int64_t quad, std::byte* units) = nullptr;
};

/// out[t, i] = I_i for every token and row. Threads split rows.
void sign_dot(const SignWords& matrix, const SignOperand& operand, MatrixView<int32_t> out,
              ThreadPool& pool);

/// "avx512", "avx2", "portable", ...: for reports.
const char* sign_dot_kernel_name();

/// What multiplies several tokens at once. Unless somebody has chosen, the fastest at a small
/// product that each usable one is given when it is first needed; where there is but one, nothing
/// is timed.
const char* prompt_kernel_name();
/// One of prompt_kernels(), or an empty name for the fastest; for the whole process, from the next
/// product on. Says whether there is such a kernel here.
bool choose_prompt_kernel(std::string_view name);
/// The names of those that this machine can run.
std::vector<std::string_view> prompt_kernels();

}  // namespace subbit
