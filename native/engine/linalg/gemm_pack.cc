// Packing: one panel of an operand, whatever its type, stride or transposition, laid out as the
// micro-kernels read it.
#include <algorithm>
#include <bit>
#include <cstring>

#include "base/float4.h"
#include "base/half.h"
#include "linalg/gemm_kernel.h"
#include "linalg/widen.h"

namespace subbit {
namespace {

const std::byte* stored_at(const GemmOperand& operand, int64_t row, int64_t column) {
  return static_cast<const std::byte*>(operand.data) +
         (row * operand.stride + column) * element_bytes(operand.type);
}

/// Four cells that follow each other at any alignment.
Float4 load_cells(const std::byte* cells) {
  Float4 v;
  std::memcpy(&v, cells, sizeof(v));
  return v;
}

/// Transposes four lines of `count` cells of four bytes into four neighbouring places of every
/// packed column.
void transpose_quad(const std::byte* const line[4], int64_t count, int64_t pitch, float* packed) {
  int64_t k = 0;
  for (; k + 4 <= count; k += 4) {
    const Float4 r0 = load_cells(line[0] + 4 * k);
    const Float4 r1 = load_cells(line[1] + 4 * k);
    const Float4 r2 = load_cells(line[2] + 4 * k);
    const Float4 r3 = load_cells(line[3] + 4 * k);
    const Float4 low01 = __builtin_shufflevector(r0, r1, 0, 4, 1, 5);
    const Float4 low23 = __builtin_shufflevector(r2, r3, 0, 4, 1, 5);
    const Float4 high01 = __builtin_shufflevector(r0, r1, 2, 6, 3, 7);
    const Float4 high23 = __builtin_shufflevector(r2, r3, 2, 6, 3, 7);
    store4(packed + (k + 0) * pitch, __builtin_shufflevector(low01, low23, 0, 1, 4, 5));
    store4(packed + (k + 1) * pitch, __builtin_shufflevector(low01, low23, 2, 3, 6, 7));
    store4(packed + (k + 2) * pitch, __builtin_shufflevector(high01, high23, 0, 1, 4, 5));
    store4(packed + (k + 3) * pitch, __builtin_shufflevector(high01, high23, 2, 3, 6, 7));
  }
  for (; k < count; ++k)
    for (int64_t i = 0; i < 4; ++i) std::memcpy(packed + k * pitch + i, line[i] + 4 * k, 4);
}

void pack_stored_rows(const GemmBlock& block, int64_t pitch, float* panel) {
  static constexpr float kZeros[kGemmDepth] = {};
  const GemmOperand& operand = *block.operand;
  float widened[4][kGemmDepth];
  for (int64_t first = 0; first < pitch; first += 4) {
    const std::byte* line[4];
    for (int64_t i = 0; i < 4; ++i) {
      if (first + i >= block.lines) {
        line[i] = reinterpret_cast<const std::byte*>(kZeros);
        continue;
      }
      line[i] = stored_at(operand, block.first_line + first + i, block.first_depth);
      if (operand.type != GemmOperand::Type::kF32) {
        widen(operand.type, line[i], block.depth, widened[i]);
        line[i] = reinterpret_cast<const std::byte*>(widened[i]);
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

float pair_of(BFloat16 low, BFloat16 high) {
  return std::bit_cast<float>(static_cast<uint32_t>(low.bits) | static_cast<uint32_t>(high.bits)
                                                                    << 16);
}

void pack_pairs_of_rows(const GemmBlock& block, int64_t pitch, float* panel) {
  static constexpr float kZeros[kGemmDepth] = {};
  const int64_t pairs = block.depth / 2;
  for (int64_t first = 0; first < pitch; first += 4) {
    const std::byte* line[4];
    for (int64_t i = 0; i < 4; ++i) {
      line[i] = first + i < block.lines
                    ? stored_at(*block.operand, block.first_line + first + i, block.first_depth)
                    : reinterpret_cast<const std::byte*>(kZeros);
    }
    transpose_quad(line, pairs, pitch, panel + first);
    if (block.depth % 2 == 0) continue;
    for (int64_t i = 0; i < 4; ++i) {
      BFloat16 last;
      std::memcpy(&last, line[i] + 4 * pairs, sizeof(last));
      panel[pairs * pitch + first + i] = pair_of(last, {});
    }
  }
}

void pack_pairs_of_columns(const GemmBlock& block, int64_t pitch, float* panel) {
  for (int64_t k = 0; k < block.depth; k += 2) {
    const auto row = [&](int64_t depth) {
      return reinterpret_cast<const BFloat16*>(
          stored_at(*block.operand, block.first_depth + depth, block.first_line));
    };
    const BFloat16* low = row(k);
    float* packed = panel + k / 2 * pitch;
    if (k + 1 < block.depth) {
      const BFloat16* high = row(k + 1);
      for (int64_t i = 0; i < block.lines; ++i) packed[i] = pair_of(low[i], high[i]);
    } else {
      for (int64_t i = 0; i < block.lines; ++i) packed[i] = pair_of(low[i], {});
    }
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

void gemm_pack_pairs(const GemmBlock& block, int64_t pitch, float* panel) {
  if (block.lines_are == GemmBlock::LinesAre::kStoredRows) {
    pack_pairs_of_rows(block, pitch, panel);
  } else {
    pack_pairs_of_columns(block, pitch, panel);
  }
}

}  // namespace subbit
