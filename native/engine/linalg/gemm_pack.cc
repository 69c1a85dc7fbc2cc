// Packing: one panel of an operand, whatever its type, stride or transposition, laid out as the
// micro-kernels read it.
#include <algorithm>

#include "base/float4.h"
#include "linalg/gemm_kernel.h"
#include "linalg/widen.h"

namespace subbit {
namespace {

const std::byte* stored_at(const GemmOperand& operand, int64_t row, int64_t column) {
  return static_cast<const std::byte*>(operand.data) +
         (row * operand.stride + column) * element_bytes(operand.type);
}

/// Transposes four lines of `depth` floats into four neighbouring places of every packed column.
void transpose_quad(const float* const line[4], int64_t depth, int64_t pitch, float* packed) {
  int64_t k = 0;
  for (; k + 4 <= depth; k += 4) {
    const Float4 r0 = load4(line[0] + k);
    const Float4 r1 = load4(line[1] + k);
    const Float4 r2 = load4(line[2] + k);
    const Float4 r3 = load4(line[3] + k);
    const Float4 low01 = __builtin_shufflevector(r0, r1, 0, 4, 1, 5);
    const Float4 low23 = __builtin_shufflevector(r2, r3, 0, 4, 1, 5);
    const Float4 high01 = __builtin_shufflevector(r0, r1, 2, 6, 3, 7);
    const Float4 high23 = __builtin_shufflevector(r2, r3, 2, 6, 3, 7);
    store4(packed + (k + 0) * pitch, __builtin_shufflevector(low01, low23, 0, 1, 4, 5));
    store4(packed + (k + 1) * pitch, __builtin_shufflevector(low01, low23, 2, 3, 6, 7));
    store4(packed + (k + 2) * pitch, __builtin_shufflevector(high01, high23, 0, 1, 4, 5));
    store4(packed + (k + 3) * pitch, __builtin_shufflevector(high01, high23, 2, 3, 6, 7));
  }
  for (; k < depth; ++k)
    for (int64_t i = 0; i < 4; ++i) packed[k * pitch + i] = line[i][k];
}

void pack_stored_rows(const GemmBlock& block, int64_t pitch, float* panel) {
  static constexpr float kZeros[kGemmDepth] = {};
  const GemmOperand& operand = *block.operand;
  float widened[4][kGemmDepth];
  for (int64_t first = 0; first < pitch; first += 4) {
    const float* line[4];
    for (int64_t i = 0; i < 4; ++i) {
      if (first + i >= block.lines) {
        line[i] = kZeros;
        continue;
      }
      const std::byte* stored = stored_at(operand, block.first_line + first + i, block.first_depth);
      if (operand.type == GemmOperand::Type::kF32) {
        line[i] = reinterpret_cast<const float*>(stored);
      } else {
        widen(operand.type, stored, block.depth, widened[i]);
        line[i] = widened[i];
      }
    }
    transpose_quad(line, block.depth, pitch, panel + first);
  }
}

void pack_stored_columns(const GemmBlock& block, int64_t pitch, float* panel) {
  const GemmOperand& operand = *block.operand;
  for (int64_t k = 0; k < block.depth; ++k) {
    float* packed = panel + k * pitch;
    widen(operand.type, stored_at(operand, block.first_depth + k, block.first_line), block.lines,
          packed);
    std::fill(packed + block.lines, packed + pitch, 0.0f);
  }
}

}  // namespace

void gemm_pack(const GemmBlock& block, int64_t pitch, float* panel) {
  if (block.lines_are == GemmBlock::LinesAre::kStoredRows) {
    pack_stored_rows(block, pitch, panel);
  } else {
    pack_stored_columns(block, pitch, panel);
  }
}

}  // namespace subbit
