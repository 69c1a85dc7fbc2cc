// The seam between sign_dot and the instruction sets. A kernel says how it wants the codes laid
// out and multiplies a run of quads; everything else is shared.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/matrix.h"
#include "formats/signs/loaded_codes.h"

namespace subbit {

/// What a kernel multiplies: quads [first_quad, last_quad) against every token.
struct SignTask {
  const std::byte* words = nullptr;  // the whole matrix
  int64_t chunks = 0;                // words in a row
  int64_t rows = 0;
  int64_t first_quad = 0;
  int64_t last_quad = 0;
  const uint8_t* blocks = nullptr;  // token 0, first pair of this matrix
  int64_t block_stride = 0;         // bytes from a token to the next
  const int32_t* totals = nullptr;  // [tokens]: sum of A_c over this matrix's chunks
};

struct SignKernel {
  const char* name = nullptr;
  bool (*usable)() = nullptr;
  int64_t pair_bytes = 0;  // operand bytes for two chunks of one token
  /// Lays out token `row` of the codes: ceil(chunks / 2) blocks of pair_bytes.
  void (*load)(const LoadedCodes& codes, int64_t row, uint8_t* blocks) = nullptr;
  void (*multiply)(const SignTask& task, MatrixView<int32_t> out) = nullptr;
};

extern const SignKernel kPortableSignKernel;
#if defined(__x86_64__)
extern const SignKernel kAvx2SignKernel;
#endif

/// Fastest first; each one's usable() must be asked.
const SignKernel* const* sign_kernels(int* count);

}  // namespace subbit
