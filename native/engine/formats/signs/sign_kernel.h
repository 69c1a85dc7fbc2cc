// The seam between sign_dot and the instruction sets. A kernel says how it wants the codes laid
// out and multiplies a run of quads; everything else is shared.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "base/matrix.h"
#include "formats/signs/layout.h"
#include "formats/signs/loaded_codes.h"

namespace subbit {

/// Chunks of an operand are padded to a multiple of this, so that the widest vector of any kernel
/// may be loaded at its end.
inline constexpr int64_t kOperandChunks = 4;

inline int64_t operand_chunks(int64_t chunks) {
  return (chunks + kOperandChunks - 1) / kOperandChunks * kOperandChunks;
}

/// What a kernel multiplies: quads [first_quad, last_quad) against every token.
struct SignTask {
  const std::byte* words = nullptr;  // the whole matrix
  int64_t chunks = 0;                // words in a row
  int64_t rows = 0;
  int64_t first_quad = 0;
  int64_t last_quad = 0;
  const uint8_t* operand = nullptr;  // token 0; [tokens, operand_chunks * chunk_bytes]
  int64_t operand_chunks = 0;        // of the whole input vector, padded
  int64_t first_chunk = 0;           // of this matrix in the input vector; even
  const int32_t* totals = nullptr;   // [tokens]: sum of A_c over this matrix's chunks
  const std::byte* then = nullptr;   // what is read behind the last quad, or null: what lies there
};

/// What to prefetch while one token is multiplied: how far from a quad's first word that lies which
/// is read `bytes` later.
struct Ahead {
  int64_t turn = 0;    // the first quad of those from which that is no more in the matrix
  int64_t within = 0;  // bytes, for quads before
  int64_t beyond = 0;  // and from there on
};

inline Ahead ahead_of(const SignTask& task, int64_t bytes) {
  if (task.then == nullptr) return {task.last_quad, bytes, bytes};
  const int64_t row_bytes = task.chunks * kUnitBytes;
  const auto end = reinterpret_cast<intptr_t>(task.words) + task.last_quad * row_bytes;
  return {std::max(task.first_quad, task.last_quad - bytes / row_bytes), bytes,
          reinterpret_cast<intptr_t>(task.then) - end + bytes};
}

/// `units` and so many bytes, of which nobody knows what lies there.
inline const char* ahead_at(const std::byte* units, int64_t bytes) {
  return reinterpret_cast<const char*>(reinterpret_cast<intptr_t>(units) + bytes);
}

struct SignKernel {
  /// Some are worth their trouble for several tokens only: they multiply prompts where they are
  /// faster (prompt_kernel in sign_dot.h).
  enum class For { kAll, kPrompts };
  const char* name = nullptr;
  bool (*usable)() = nullptr;
  int64_t chunk_bytes = 0;  // operand bytes for one chunk of one token
  /// Lays out token `row` of the codes: operand_chunks(codes.chunks) * chunk_bytes, aligned to 64.
  void (*load)(const LoadedCodes& codes, int64_t row, uint8_t* operand) = nullptr;
  void (*multiply)(const SignTask& task, MatrixView<int32_t> out) = nullptr;
  For used_for = For::kAll;
};

extern const SignKernel kPortableSignKernel;
#if defined(__x86_64__)
extern const SignKernel kAvx2SignKernel;
extern const SignKernel kAvx512SignKernel;
#elif defined(__aarch64__)
extern const SignKernel kNeonDotSignKernel;
extern const SignKernel kNeonSignKernel;
extern const SignKernel kI8mmSignKernel;
#endif
#if defined(__APPLE__)
extern const SignKernel kAccelerateSignKernel;
#endif

/// Of those for all, fastest first; each one's usable() must be asked.
const SignKernel* const* sign_kernels(int* count);

}  // namespace subbit
