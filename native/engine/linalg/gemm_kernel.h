// The seam inside the GEMM: what a micro-kernel computes, how its operands are packed, and which
// ones this machine can run. Only gemm*.cc and their tests include it.
//
// Packed panels. The left operand is cut into panels of up to kMaxRows rows, the right one into
// panels of `vectors * lanes` columns. Cell k of row r (column j) of a panel lies at
// panel[k * pitch + r]; a panel's pitch is its height rounded up to kPitch (its width,
// zero-padded). A cell is a float, or the bits of two bfloat16 that follow each other along k, the
// earlier one low (a zero after an odd depth's last).
#pragma once

#include <cstdint>
#include <span>

#include "base/matrix.h"
#include "base/thread_pool.h"
#include "linalg/gemm.h"

// Arrays of vectors live in registers only if every loop over them is unrolled whole.
#if defined(__clang__)
#define SUBBIT_UNROLL _Pragma("clang loop unroll(full)")
#else
#define SUBBIT_UNROLL _Pragma("GCC unroll 16")
#endif

namespace subbit {

/// Packing moves quads of four rows at a time.
inline constexpr int64_t kGemmPitch = 4;

constexpr int64_t gemm_pitch(int64_t rows) {
  return (rows + kGemmPitch - 1) / kGemmPitch * kGemmPitch;
}

/// One tile: c [rows, vectors * lanes] = or += the product of a panel pair over `depth` cells.
struct GemmTile {
  const float* a = nullptr;  // [depth, gemm_pitch(rows)]
  const float* b = nullptr;  // [depth, vectors * lanes]
  float* c = nullptr;
  int64_t c_stride = 0;
  int64_t depth = 0;
  Accumulate accumulate = Accumulate::kOverwrite;
};

/// A block of an operand as packing sees it: `lines` run across a panel (rows of op(A), columns of
/// op(B)), `depth` runs along k.
struct GemmBlock {
  const GemmOperand* operand = nullptr;
  enum class LinesAre { kStoredRows, kStoredColumns } lines_are = LinesAre::kStoredRows;
  int64_t first_line = 0;
  int64_t lines = 0;
  int64_t first_depth = 0;
  int64_t depth = 0;
};

struct GemmKernel {
  static constexpr int kMaxRows = 14;
  static constexpr int kMaxVectors = 3;
  using Run = void (*)(const GemmTile& tile);
  enum class Cell { kFloat, kBFloat16Pair };
  /// Packs one panel of block.lines <= pitch lines as [cells(depth), pitch], zero beyond the lines.
  /// `pitch` is a multiple of kGemmPitch.
  using Pack = void (*)(const GemmBlock& block, int64_t pitch, float* panel);

  const char* name = "";
  int rows = 0;     // tallest tile
  int vectors = 0;  // widest tile, in vectors
  int lanes = 0;    // floats in a vector
  Cell cell = Cell::kFloat;
  Pack pack = nullptr;
  /// run[rows - 1][vectors - 1], for every height and width up to the largest.
  Run run[kMaxRows][kMaxVectors] = {};

  int width() const { return vectors * lanes; }
  int64_t cell_values() const { return cell == Cell::kFloat ? 1 : 2; }
  int64_t cells(int64_t depth) const { return (depth + cell_values() - 1) / cell_values(); }
};

/// Kernels on floats this machine can run, fastest first; the last is portable.
std::span<const GemmKernel* const> gemm_kernels();
/// The kernel on pairs of bfloat16, or null where the processor has none.
const GemmKernel* gemm_bfloat16_kernel();

const GemmKernel& gemm_kernel_portable();
#if defined(__x86_64__)
const GemmKernel& gemm_kernel_avx2();
#if !defined(__APPLE__)
const GemmKernel& gemm_kernel_avx512();
const GemmKernel& gemm_kernel_avx512_bf16();
#endif
#elif defined(__aarch64__)
const GemmKernel& gemm_kernel_neon();
#endif

/// gemm() on a given kernel: on floats the same bits whichever it is. A kernel on pairs wants both
/// operands to be bfloat16.
void gemm_on(const GemmKernel& kernel, const GemmOperand& a, const GemmOperand& b, Matrix c,
             Accumulate accumulate, ThreadPool& pool);

#if defined(__APPLE__)
/// gemm() through Accelerate. Its sums have an order of Apple's choosing.
void gemm_accelerate(const GemmOperand& a, const GemmOperand& b, Matrix c, Accumulate accumulate);
#endif

/// GemmKernel::Pack for cells of a float, on every machine.
void gemm_pack(const GemmBlock& block, int64_t pitch, float* panel);
#if defined(__x86_64__) && !defined(__APPLE__)
void gemm_pack_avx512(const GemmBlock& block, int64_t pitch, float* panel);
/// For cells of two bfloat16.
void gemm_pack_avx512_bf16(const GemmBlock& block, int64_t pitch, float* panel);
#endif

}  // namespace subbit
