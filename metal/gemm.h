// Shapes of the kernels that multiply a prompt by simdgroup_matrix (sign_gemm.metal,
// table_gemm.metal, plain_gemm.metal). A threadgroup takes kGemmRows rows of the weight and
// kGemmTokens tokens, and goes along the columns a chunk of 32 at a time: it unpacks that much of
// both into threadgroup memory, and its four simdgroups multiply 32 rows by 16 tokens each.
// Arguments are those of the kernels that multiply single tokens: GemvArgs, GroupGemvArgs,
// DenseGemvArgs.
#pragma once

#include "linear.h"

namespace subbit {
namespace shader {

enum : uint32_t {
  kGemmThreads = 128,
  kGemmSimdgroups = 4,
  kGemmRows = 64,
  kGemmTokens = 32,
  kGemmColumns = 32,                                         // of a step: one chunk
  kGemmElements = (kGemmRows + kGemmTokens) * kGemmColumns,  // of both tiles
};

inline uint32_t gemm_row_groups(uint32_t rows) { return (rows + kGemmRows - 1) / kGemmRows; }
inline uint32_t gemm_token_groups(uint32_t tokens) {
  return (tokens + kGemmTokens - 1) / kGemmTokens;
}

/// Bytes of threadgroup memory 0, tiles of `element` bytes: the tiles, a matrix of 8 x 8 floats for
/// each simdgroup to read its sums through, and a word a token.
inline uint32_t gemm_threadgroup_bytes(uint32_t element) {
  return element * kGemmElements + 4 * (64 * kGemmSimdgroups + kGemmTokens);
}

/// Arguments of `rank_codes`: QVecs of a factored linear's first sums.
struct RankCodesArgs {
  uint32_t rank;
  uint32_t flags;  // kEpilogueMidScale
  uint32_t input_chunks;
};

}  // namespace shader
}  // namespace subbit
