// Arguments of prompt_attention.metal are those of attention.h, but for a token count; here is how
// a prompt is cut. A threadgroup takes kPromptQueries neighbouring tokens of one head, eight for
// each simdgroup, and goes along the cache kPromptKeys positions at a time.
#pragma once

#include "attention.h"

namespace subbit {
namespace shader {

struct PromptAttentionArgs {
  AttentionArgs attention;
  uint32_t tokens;  // at least 8
};

enum : uint32_t {
  kPromptThreads = 128,
  kPromptSimdgroups = 4,
  kPromptQueries = 32,
  kPromptKeys = 16,
  kPromptScores = 8 * kPromptKeys + 64,  // floats of a simdgroup: scores, and 8 x 8 to scale by
};

inline uint32_t prompt_groups(uint32_t tokens) {
  return (tokens + kPromptQueries - 1) / kPromptQueries;
}

/// Bytes of threadgroup memory 0: kPromptKeys rows of keys, then of values, and scores.
inline uint32_t prompt_threadgroup_bytes(uint32_t head_dim) {
  return 4 * (kPromptKeys * head_dim + kPromptScores * kPromptSimdgroups);
}

}  // namespace shader
}  // namespace subbit
