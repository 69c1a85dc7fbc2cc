// Arguments of attention.metal: one query row a threadgroup, keys and values from the cache
// [kv_heads, capacity, head_dim]. With several splits each threadgroup takes a run of positions and
// leaves (maximum, sum, weighted values) for attention_combine.
#pragma once

#include "qvec.h"

namespace subbit {
namespace shader {

enum AttentionFlag : uint32_t {
  kAttentionQvec = 1,  // the output is a QVec (head_dim a multiple of 32), not floats
};

struct AttentionArgs {
  uint32_t heads;
  uint32_t kv_heads;
  uint32_t head_dim;  // at most kMostHeadDim
  uint32_t capacity;
  uint32_t first_position;  // token t attends to positions 0 .. first_position + t
  uint32_t splits;
  uint32_t q_stride;
  uint32_t out_stride;  // floats; a QVec's stride is its own
  uint32_t flags;       // AttentionFlag
};

enum : uint32_t {
  kMostHeadDim = 256,
  kAttentionSimdgroups = 8,  // of a threadgroup, each its own positions
  kAttentionThreads = 256,
  kCombineThreads = 32,  // one simdgroup a head
};

/// Floats of one split's partial result.
inline uint32_t partial_floats(uint32_t head_dim) { return head_dim + 2; }

/// Bytes of threadgroup memory 0 of attention_decode_*: a partial result for each simdgroup.
inline uint32_t attention_threadgroup_bytes(uint32_t head_dim) {
  return 4 * kAttentionSimdgroups * (head_dim + 2);
}

}  // namespace shader
}  // namespace subbit
