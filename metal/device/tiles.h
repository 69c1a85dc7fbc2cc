// What the prompt kernels share (gemm.h): two tiles in threadgroup memory, cut into blocks of 8 x 8
// that a simdgroup loads whole, and the 16 tokens by 32 rows of sums that a simdgroup keeps.
#pragma once

#include "../gemm.h"
#include "dialect.h"

/// Where a thread's share of the tiles is: 16 columns of one row, 8 columns of one token.
struct TilePlace {
  uint row;  // of the threadgroup
  uint row_columns;
  uint token;  // of the threadgroup
  uint token_columns;
};

inline TilePlace tile_place(uint index) {
  TilePlace place;
  place.row = index / 2;
  place.row_columns = 16 * (index % 2);
  place.token = index / 4;
  place.token_columns = 8 * (index % 4);
  return place;
}

/// Element (row, column) of the weights' tile, whose blocks stand on their side: the next column of
/// a block is 8 further on, the next block 64.
inline uint row_element(uint row, uint column) {
  return 64 * (row / 8 * 4 + column / 8) + 8 * (column % 8) + row % 8;
}
/// Element (token, column) of the tokens' tile, after the weights'.
inline uint token_element(uint token, uint column) {
  return kGemmRows * kGemmColumns + 64 * (token / 8 * 4 + column / 8) + 8 * (token % 8) +
         column % 8;
}

/// Of a simdgroup: block [t][r] is tokens 8 t .. of its 16 and rows 8 r .. of its 32.
struct TileSums {
  simdgroup_float8x8 blocks[2][4];
};

inline uint first_token_of(uint simdgroup) { return 16 * (simdgroup / 2); }
inline uint first_row_of(uint simdgroup) { return 32 * (simdgroup % 2); }

inline void clear_sums(thread TileSums& sums) {
  UNROLL
  for (uint t = 0; t < 2; ++t) {
    UNROLL
    for (uint r = 0; r < 4; ++r) sums.blocks[t][r] = simdgroup_float8x8(0.0f);
  }
}

/// sums += tokens * rows, 32 columns of them. Only blocks with any of the threadgroup's `tokens`
/// are multiplied: the sums of others stay as they are. The same for all lanes of a simdgroup.
template <typename Element>
inline void multiply_tiles(thread TileSums& sums, threadgroup const Element* tiles, uint tokens,
                           uint simdgroup) {
  const uint first = first_token_of(simdgroup);
  if (first >= tokens) return;
  const uint blocks = first + 8 < tokens ? 2 : 1;
  for (uint k = 0; k < kGemmColumns; k += 8) {
    simdgroup_matrix<Element, 8, 8> rows[4];
    UNROLL
    for (uint r = 0; r < 4; ++r) {
      simdgroup_load(rows[r], tiles + row_element(first_row_of(simdgroup) + 8 * r, k));
    }
    UNROLL
    for (uint t = 0; t < 2; ++t) {
      if (t >= blocks) continue;
      simdgroup_matrix<Element, 8, 8> of_tokens;
      simdgroup_load(of_tokens, tiles + token_element(first + 8 * t, k));
      UNROLL
      for (uint r = 0; r < 4; ++r) {
        simdgroup_multiply_accumulate(sums.blocks[t][r], of_tokens, rows[r], sums.blocks[t][r]);
      }
    }
  }
}

/// Sums as each lane can read them: of block b (4 t + r), elements `lane` and `lane` + 32 are
/// values[2 b] and values[2 b + 1]. `own` holds 64 floats of this simdgroup alone.
inline void read_sums(thread const TileSums& sums, threadgroup float* own, uint lane,
                      thread float* values) {
  UNROLL
  for (uint b = 0; b < 8; ++b) {
    simdgroup_store(sums.blocks[b / 4][b % 4], own);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    values[2 * b] = own[lane];
    values[2 * b + 1] = own[lane + 32];
    simdgroup_barrier(mem_flags::mem_threadgroup);
  }
}

/// Token and row of the threadgroup's tile that values[i] of `lane` belong to.
struct SumPlace {
  uint token;
  uint row;
};

inline SumPlace sum_place(uint i, uint lane, uint simdgroup) {
  const uint element = lane + 32 * (i % 2);
  SumPlace place;
  place.token = first_token_of(simdgroup) + 8 * (i / 8) + element / 8;
  place.row = first_row_of(simdgroup) + 8 * (i / 2 % 4) + element % 8;
  return place;
}
