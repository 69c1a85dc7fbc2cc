// Packing with AVX-512: sixteen lines at a time, and masks instead of rests.
#if defined(__x86_64__) && !defined(__APPLE__)

#include <algorithm>
#include <cstddef>
// GCC 12 takes the lanes its own intrinsics leave undefined for a mistake (bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <immintrin.h>

#include "linalg/gemm_kernel.h"
#include "linalg/widen.h"

#define SUBBIT_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl")))

namespace subbit {
namespace {

constexpr int64_t kLines = 16;

/// The lowest `count` bits, count <= 32; none below zero.
uint32_t low_bits(int64_t count) {
  return static_cast<uint32_t>((uint64_t{1} << std::clamp<int64_t>(count, 0, 32)) - 1);
}

const std::byte* stored_at(const GemmBlock& block, int64_t row, int64_t column) {
  return static_cast<const std::byte*>(block.operand->data) +
         (row * block.operand->stride + column) * element_bytes(block.operand->type);
}

/// Rows of sixteen cells become columns: pairs of rows, then quads, then quarters of registers.
SUBBIT_AVX512 inline __attribute__((always_inline)) void transpose(__m512i (&cells)[16]) {
  __m512i quads[16];  // quads[g + c]: columns c, 4 + c, 8 + c, 12 + c of rows g .. g + 3
  SUBBIT_UNROLL
  for (int g = 0; g < 16; g += 4) {
    const __m512i low01 = _mm512_unpacklo_epi32(cells[g], cells[g + 1]);
    const __m512i low23 = _mm512_unpacklo_epi32(cells[g + 2], cells[g + 3]);
    const __m512i high01 = _mm512_unpackhi_epi32(cells[g], cells[g + 1]);
    const __m512i high23 = _mm512_unpackhi_epi32(cells[g + 2], cells[g + 3]);
    quads[g] = _mm512_unpacklo_epi64(low01, low23);
    quads[g + 1] = _mm512_unpackhi_epi64(low01, low23);
    quads[g + 2] = _mm512_unpacklo_epi64(high01, high23);
    quads[g + 3] = _mm512_unpackhi_epi64(high01, high23);
  }
  constexpr int kEven = 0x88;
  constexpr int kOdd = 0xDD;
  SUBBIT_UNROLL
  for (int c = 0; c < 4; ++c) {
    const __m512i even01 = _mm512_shuffle_i32x4(quads[c], quads[4 + c], kEven);
    const __m512i even23 = _mm512_shuffle_i32x4(quads[8 + c], quads[12 + c], kEven);
    const __m512i odd01 = _mm512_shuffle_i32x4(quads[c], quads[4 + c], kOdd);
    const __m512i odd23 = _mm512_shuffle_i32x4(quads[8 + c], quads[12 + c], kOdd);
    cells[c] = _mm512_shuffle_i32x4(even01, even23, kEven);
    cells[4 + c] = _mm512_shuffle_i32x4(odd01, odd23, kEven);
    cells[8 + c] = _mm512_shuffle_i32x4(even01, even23, kOdd);
    cells[12 + c] = _mm512_shuffle_i32x4(odd01, odd23, kOdd);
  }
}

/// What a cell is made from.
enum class From { kFloat, kHalf, kBFloat16, kBFloat16Pair };

constexpr int64_t values_of_cell(From from) { return from == From::kBFloat16Pair ? 2 : 1; }
constexpr int64_t bytes_of_cell(From from) {
  return from == From::kFloat || from == From::kBFloat16Pair ? 4 : 2;
}

/// Sixteen cells from the first `values` of those at `stored`, zeros after them.
template <From from>
SUBBIT_AVX512 inline __attribute__((always_inline)) __m512i load_cells(const std::byte* stored,
                                                                       int64_t values) {
  const uint32_t there = low_bits(values);
  if constexpr (from == From::kFloat)
    return _mm512_maskz_loadu_epi32(static_cast<__mmask16>(there), stored);
  if constexpr (from == From::kBFloat16Pair) return _mm512_maskz_loadu_epi16(there, stored);
  const __m256i halves = _mm256_maskz_loadu_epi16(static_cast<__mmask16>(there), stored);
  if constexpr (from == From::kHalf) return _mm512_castps_si512(_mm512_cvtph_ps(halves));
  return _mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
}

/// The first `count` columns, those of `lanes`, `pitch` apart. Stores under a mask take several
/// times as long on Zen 4, so where everything is stored there is none.
SUBBIT_AVX512 inline __attribute__((always_inline)) void store_columns(
    const __m512i (&columns)[16], int64_t count, __mmask16 lanes, int64_t pitch, float* panel) {
  if (count == 16 && lanes == 0xFFFF) {
    SUBBIT_UNROLL
    for (int64_t c = 0; c < 16; ++c) _mm512_storeu_si512(panel + c * pitch, columns[c]);
    return;
  }
  SUBBIT_UNROLL
  for (int64_t c = 0; c < 16; ++c)
    if (c < count) _mm512_mask_storeu_epi32(panel + c * pitch, lanes, columns[c]);
}

/// Lines are stored rows.
template <From from>
SUBBIT_AVX512 void pack_rows(const GemmBlock& block, int64_t pitch, float* panel) {
  constexpr int64_t kValues = values_of_cell(from);
  const int64_t cells = (block.depth + kValues - 1) / kValues;
  for (int64_t first = 0; first < pitch; first += kLines) {
    const auto lanes = static_cast<__mmask16>(low_bits(std::min(kLines, pitch - first)));
    const int64_t lines = std::min(kLines, block.lines - first);
    for (int64_t k = 0; k < cells; k += 16) {
      __m512i square[16];
      SUBBIT_UNROLL
      for (int64_t i = 0; i < kLines; ++i) {
        square[i] = _mm512_setzero_si512();
        if (i < lines) {
          const std::byte* line = stored_at(block, block.first_line + first + i, block.first_depth);
          square[i] = load_cells<from>(line + k * bytes_of_cell(from), block.depth - k * kValues);
        }
      }
      transpose(square);
      store_columns(square, std::min<int64_t>(16, cells - k), lanes, pitch,
                    panel + k * pitch + first);
    }
  }
}

/// Lines are stored columns.
template <From from>
SUBBIT_AVX512 void pack_columns(const GemmBlock& block, int64_t pitch, float* panel) {
  for (int64_t first = 0; first < pitch; first += kLines) {
    const auto lanes = static_cast<__mmask16>(low_bits(std::min(kLines, pitch - first)));
    for (int64_t k = 0; k < block.depth; ++k) {
      const std::byte* row = stored_at(block, block.first_depth + k, block.first_line + first);
      _mm512_mask_storeu_epi32(panel + k * pitch + first, lanes,
                               load_cells<from>(row, std::min(kLines, block.lines - first)));
    }
  }
}

/// The same, of pairs.
SUBBIT_AVX512 void pack_columns_of_pairs(const GemmBlock& block, int64_t pitch, float* panel) {
  for (int64_t first = 0; first < pitch; first += kLines) {
    const auto lanes = static_cast<__mmask16>(low_bits(std::min(kLines, pitch - first)));
    const auto there = static_cast<__mmask16>(low_bits(std::min(kLines, block.lines - first)));
    for (int64_t k = 0; k < block.depth; k += 2) {
      const auto row = [&](int64_t depth) {
        return stored_at(block, block.first_depth + depth, block.first_line + first);
      };
      const __mmask16 both = k + 1 < block.depth ? there : 0;
      const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(there, row(k)));
      const __m512i high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(both, row(k + 1)));
      _mm512_mask_storeu_epi32(panel + k / 2 * pitch + first, lanes,
                               _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
  }
}

template <From from>
void pack(const GemmBlock& block, int64_t pitch, float* panel) {
  if (block.lines_are == GemmBlock::LinesAre::kStoredRows) {
    pack_rows<from>(block, pitch, panel);
  } else if constexpr (from == From::kBFloat16Pair) {
    pack_columns_of_pairs(block, pitch, panel);
  } else {
    pack_columns<from>(block, pitch, panel);
  }
}

}  // namespace

void gemm_pack_avx512(const GemmBlock& block, int64_t pitch, float* panel) {
  switch (block.operand->type) {
    case GemmOperand::Type::kF32:
      return pack<From::kFloat>(block, pitch, panel);
    case GemmOperand::Type::kF16:
      return pack<From::kHalf>(block, pitch, panel);
    case GemmOperand::Type::kBF16:
      return pack<From::kBFloat16>(block, pitch, panel);
  }
}

void gemm_pack_avx512_bf16(const GemmBlock& block, int64_t pitch, float* panel) {
  pack<From::kBFloat16Pair>(block, pitch, panel);
}

}  // namespace subbit

#endif  // __x86_64__ && !__APPLE__
