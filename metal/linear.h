// Arguments of the kernels that multiply a matrix of signs (sign_gemv.metal, code84_gemv.metal,
// table_gemv.metal) and of the epilogues they end in (device/epilogue.h), and how many threadgroups
// each takes.
//
// A simdgroup multiplies pairs of quads: 32 >> lanes_log2 pairs side by side, each pair by
// 1 << lanes_log2 lanes, a lane being every so many chunks. Pair i is the quads
//
//   (i / pair_quads) * 2 * pair_quads + i % pair_quads     and pair_quads further on
//
// so that rows which an epilogue combines meet in one threadgroup: pair_quads is 1 for neighbours,
// ffn / 4 for gate and up, head_dim / 8 for the two halves of a head.
#pragma once

#include "qvec.h"

namespace subbit {
namespace shader {

struct GemvArgs {
  uint32_t rows;         // of the matrix
  uint32_t chunks;       // of a row; code84: of the expanded row, twice the stored words
  uint32_t first_chunk;  // where the matrix's columns begin in the input
  uint32_t input_chunks;
  uint32_t headroom;    // D: headroom_bits(columns of the whole input)
  uint32_t lanes_log2;  // 3, 4 or 5
  uint32_t pair_quads;
  uint32_t table_width;     // table: 4, 8 or 16 columns an index
  uint32_t vectors;         // table: indices of a row
  uint32_t rounding_shift;  // table: R of formats/table/table.cc; else 0
  uint32_t tokens;          // *_columns, *_gemm: of the whole dispatch
};

enum EpilogueFlag : uint32_t {
  kEpilogueBias = 1,
  kEpilogueMidScale = 2,   // rank: z = float(I) * s_mid
  kEpilogueHalfCache = 4,  // qkv: keys and values are halves, not floats
};

/// What follows the integers. Fields that an epilogue does not name are not read.
struct EpilogueArgs {
  uint32_t flags;     // EpilogueFlag
  float gain;         // of the term; rank and sums leave it to the end
  uint32_t y_stride;  // store, add, add_norm, sums: words between tokens; qkv: of q
  float eps;          // add_norm: of the norm that follows
  uint32_t heads;     // qkv
  uint32_t kv_heads;
  uint32_t head_dim;
  uint32_t capacity;
  uint32_t first_position;
};

enum : uint32_t {
  kGemvThreads = 128,    // every epilogue but swiglu
  kSwigluThreads = 256,  // so that a threadgroup owns whole chunks of silu(gate) * up
};

/// Tokens whose products one threadgroup of the *_columns kernels computes from one load of words.
enum : uint32_t { kColumnTokens = 4 };

/// The lanes a row of `chunks` words fills best; the more lanes, the better, where several do.
inline uint32_t gemv_lanes_log2(uint32_t chunks) {
  uint32_t best = 5;
  for (uint32_t log2 = 5; log2 >= 3; --log2) {
    const uint32_t slots = ((chunks + (1u << log2) - 1) >> log2) << log2;
    const uint32_t best_slots = ((chunks + (1u << best) - 1) >> best) << best;
    if (slots < best_slots) best = log2;
  }
  return best;
}

/// Pairs of quads one threadgroup of `threads` multiplies.
inline uint32_t gemv_pairs(uint32_t threads, uint32_t lanes_log2) { return threads >> lanes_log2; }

/// Threadgroups for a matrix of `rows` rows.
inline uint32_t gemv_groups(uint32_t rows, uint32_t threads, uint32_t lanes_log2) {
  const uint32_t pairs = ((rows + 3) / 4 + 1) / 2;
  const uint32_t each = gemv_pairs(threads, lanes_log2);
  return (pairs + each - 1) / each;
}

/// Bytes of threadgroup memory 0: an int for each row; *_columns: times kColumnTokens.
inline uint32_t gemv_threadgroup_bytes(uint32_t threads, uint32_t lanes_log2) {
  return 4 * 8 * gemv_pairs(threads, lanes_log2);
}

/// Arguments of `finish_terms`: the epilogue of a linear of several terms.
struct FinishArgs {
  uint32_t rows;
  uint32_t terms;
  uint32_t flags;  // kEpilogueBias
  uint32_t tokens;
  uint32_t y_stride;
  uint32_t input_chunks;
  float gains[8];
};

enum : uint32_t { kFinishThreads = 256 };

}  // namespace shader
}  // namespace subbit
