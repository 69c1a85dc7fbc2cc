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
#include "base/function_ref.h"
#include "base/matrix.h"
#include "base/thread_pool.h"
#include "formats/signs/loaded_codes.h"

namespace subbit {

struct SignKernel;  // sign_kernel.h

/// Loaded codes in the form that a kernel reads. Built once per input, shared by every sign
/// matrix that reads it.
struct SignOperand {
  const SignKernel* kernel = nullptr;
  LoadedCodes codes;       // where there are copies: only its sizes and exponents
  Buffer<uint8_t> tables;  // [tokens, padded chunks, kernel's bytes a chunk]

  /// One token on several threads: each makes itself a copy when it first needs it. Lines that one
  /// processor has written and others have read are slow to read there and slow to write again; the
  /// codes, which are a third of the bytes, are the only ones that have to go across.
  struct alignas(kCacheLine) Copy {
    LoadedCodes codes;
    Buffer<uint8_t> tables;
    uint64_t number = 0;  // of what it is a copy of
  };
  const QuantizedRows* source = nullptr;  // or null: no copies
  uint64_t number = 0;                    // of loads so far
  int64_t copied_chunks = 0;              // that each copy has memory for
  mutable std::vector<Copy> copies;
};

/// The codes as `worker` may read them.
const LoadedCodes& codes_for(const SignOperand& operand, int worker);

/// Quantized rows -> operand, for sign matrices over `in.cols` columns.
/// `in` must stay as it is while the operand is in use.
void load_sign_operand(const QuantizedRows& in, SignOperand& out, ThreadPool& pool);

/// Threads that have copies of an operand; where there are more, all read one.
inline constexpr int kMostCopies = 16;

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

/// out[t, i] = I_i for every token and row. Threads split rows. `done`, for one token, is told of
/// every run of rows by the thread that has just made their sums; runs begin at multiples of
/// kChunk.
void sign_dot(const SignWords& matrix, const SignOperand& operand, MatrixView<int32_t> out,
              ThreadPool& pool, FunctionRef<void(Range rows)> done = {});

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
