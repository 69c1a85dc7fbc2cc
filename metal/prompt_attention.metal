// Causal attention of a prompt: as attention.metal, but the cache is read once for 32 tokens, and
// scores and weighted values are products by simdgroup_matrix (the blocked online softmax of Dao et
// al. 2022). A simdgroup keeps the sums of eight tokens; when a larger score appears, they fade by
// a product with a diagonal matrix. head_dim is a multiple of 8. Twin: cpu_attention.cc.
#include "device/floats.h"
#include "device/quantized.h"
#include "prompt_attention.h"

constant constexpr uint kMostBlocks = kMostHeadDim / 8;
constant constexpr float kPromptLowest = -3.0e38f;  // finite, as in attention.metal

/// Rows [first, first + kPromptKeys) of one KV head as floats; rows from `end` on are zeros.
template <typename Stored>
inline void fill_cache_rows(thread const AttentionArgs& args, device const uchar* rows, uint first,
                            uint end, uint index, threadgroup float* tile) {
  Stored stored;
  const uint bytes = row_bytes(stored, args.head_dim);
  for (uint i = index; i < kPromptKeys * args.head_dim; i += kPromptThreads) {
    const uint position = first + i / args.head_dim;
    float value = 0.0f;
    if (position < end) {
      device const uchar* row = rows + position * bytes;
      value = read_stored(stored, row, i % args.head_dim);
      value = value * row_scale_of(stored, row, args.head_dim);
    }
    tile[i] = value;
  }
}

/// What four lanes know of the token whose scores they share out.
struct QueryState {
  uint position;  // of the token: it attends to 0 .. position
  float largest;
  float sum;
};

/// Scores of eight tokens become powers of e; `scores` ends with the matrix that older sums fade
/// by. True where some sum does fade.
inline bool take_scores(thread QueryState& state, uint first, uint lane, float scale,
                        threadgroup float* scores) {
  threadgroup float* own = scores + lane / 4 * kPromptKeys;
  threadgroup float* fades = scores + 8 * kPromptKeys;
  float values[kPromptKeys / 4];
  float largest = state.largest;
  UNROLL
  for (uint i = 0; i < kPromptKeys / 4; ++i) {
    const uint key = lane % 4 + 4 * i;
    values[i] = first + key <= state.position ? own[key] * scale : kPromptLowest;
    largest = max(largest, values[i]);
  }
  largest = max(largest, simd_shuffle_xor(largest, ushort(1)));
  largest = max(largest, simd_shuffle_xor(largest, ushort(2)));
  const float fade = fast::exp(state.largest - largest);
  float sum = 0.0f;
  UNROLL
  for (uint i = 0; i < kPromptKeys / 4; ++i) {
    const uint key = lane % 4 + 4 * i;
    const float power = first + key <= state.position ? fast::exp(values[i] - largest) : 0.0f;
    own[key] = power;
    sum += power;
  }
  sum += simd_shuffle_xor(sum, ushort(1));
  sum += simd_shuffle_xor(sum, ushort(2));
  state.sum = fma(state.sum, fade, sum);
  const bool fades_any = simd_any(largest > state.largest);
  state.largest = largest;
  UNROLL
  for (uint i = 0; i < 2; ++i) {
    const uint column = lane % 4 + 4 * i;
    fades[8 * (lane / 4) + column] = column == lane / 4 ? fade : 0.0f;
  }
  simdgroup_barrier(mem_flags::mem_threadgroup);
  return fades_any;
}

/// The place of a simdgroup's eight tokens. The last ones of a prompt move back until all eight
/// exist; those that another simdgroup writes too are not written.
struct QueryBlock {
  uint first;    // token
  uint written;  // tokens before this one are another's
};

inline QueryBlock query_block(uint group, uint simdgroup, uint tokens) {
  QueryBlock block;
  block.written = kPromptQueries * group + 8 * simdgroup;
  block.first = min(block.written, tokens - 8);
  return block;
}

/// scores = q [8, head_dim] * keys^T, the tile's.
inline void find_scores(device const float* q, uint q_stride, uint head_dim,
                        threadgroup const float* tile, threadgroup float* scores) {
  simdgroup_float8x8 products[kPromptKeys / 8];
  UNROLL
  for (uint k = 0; k < kPromptKeys / 8; ++k) products[k] = simdgroup_float8x8(0.0f);
  for (uint d = 0; d < head_dim; d += 8) {
    simdgroup_float8x8 left;
    simdgroup_load(left, q + d, q_stride);
    UNROLL
    for (uint k = 0; k < kPromptKeys / 8; ++k) {
      simdgroup_float8x8 right;
      simdgroup_load(right, tile + 8 * k * head_dim + d, head_dim, ulong2(0), true);
      simdgroup_multiply_accumulate(products[k], left, right, products[k]);
    }
  }
  UNROLL
  for (uint k = 0; k < kPromptKeys / 8; ++k) {
    simdgroup_store(products[k], scores + 8 * k, kPromptKeys);
  }
}

/// Weighted values of eight tokens: block d is dimensions [8 d, 8 d + 8).
struct MixedValues {
  simdgroup_float8x8 blocks[kMostBlocks];
};

/// mixed = mixed faded + scores * values, the tile's.
inline void add_values(thread MixedValues& mixed, bool fades, uint head_dim,
                       threadgroup const float* tile, threadgroup const float* scores) {
  simdgroup_float8x8 fade;
  simdgroup_float8x8 powers[kPromptKeys / 8];
  simdgroup_load(fade, scores + 8 * kPromptKeys);
  UNROLL
  for (uint k = 0; k < kPromptKeys / 8; ++k) {
    simdgroup_load(powers[k], scores + 8 * k, kPromptKeys);
  }
  UNROLL
  for (uint d = 0; d < kMostBlocks; ++d) {
    if (8 * d >= head_dim) continue;
    simdgroup_float8x8 sum = mixed.blocks[d];
    if (fades) simdgroup_multiply_accumulate(sum, fade, sum, simdgroup_float8x8(0.0f));
    UNROLL
    for (uint k = 0; k < kPromptKeys / 8; ++k) {
      simdgroup_float8x8 right;
      simdgroup_load(right, tile + 8 * k * head_dim + 8 * d, head_dim);
      simdgroup_multiply_accumulate(sum, powers[k], right, sum);
    }
    mixed.blocks[d] = sum;
  }
}

/// The block's tokens into out [tokens, out_stride], which stands at the head. The powers' sums
/// divide through a diagonal too: each element is one product.
inline void store_mixed(thread const MixedValues& mixed, float sum,
                        thread const PromptAttentionArgs& args, thread const QueryBlock& block,
                        uint lane, threadgroup float* scores, device float* out) {
  threadgroup float* inverses = scores + 8 * kPromptKeys;
  UNROLL
  for (uint i = 0; i < 2; ++i) {
    const uint column = lane % 4 + 4 * i;
    inverses[8 * (lane / 4) + column] = column == lane / 4 ? 1.0f / sum : 0.0f;
  }
  simdgroup_barrier(mem_flags::mem_threadgroup);
  simdgroup_float8x8 inverse;
  simdgroup_load(inverse, inverses);
  UNROLL
  for (uint d = 0; d < kMostBlocks; ++d) {
    if (8 * d >= args.attention.head_dim) continue;
    simdgroup_float8x8 values;
    simdgroup_multiply_accumulate(values, inverse, mixed.blocks[d], simdgroup_float8x8(0.0f));
    simdgroup_store(values, scores);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    UNROLL
    for (uint i = 0; i < 2; ++i) {
      const uint element = lane + 32 * i;
      const uint token = block.first + element / 8;
      if (token < block.written || token >= args.tokens) continue;
      out[token * args.attention.out_stride + 8 * d + element % 8] = scores[element];
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
  }
}

template <typename Stored>
inline void attend_prompt(thread const PromptAttentionArgs& args, device const float* q,
                          device const uchar* keys, device const uchar* values, uint3 group,
                          uint index, uint lane, uint simdgroup, threadgroup float* tile,
                          threadgroup float* scores, device float* out) {
  Stored stored;
  const AttentionArgs shape = args.attention;
  const QueryBlock block = query_block(group.y, simdgroup, args.tokens);
  const uint kv_head = group.x / (shape.heads / shape.kv_heads);
  const uint bytes = kv_head * shape.capacity * row_bytes(stored, shape.head_dim);
  const uint head = group.x * shape.head_dim;
  const float scale = 1.0f / sqrt(float(shape.head_dim));
  QueryState state = {shape.first_position + block.first + lane / 4, kPromptLowest, 0.0f};
  MixedValues mixed;
  UNROLL
  for (uint d = 0; d < kMostBlocks; ++d) mixed.blocks[d] = simdgroup_float8x8(0.0f);
  const uint end = shape.first_position + min(kPromptQueries * (group.y + 1), args.tokens);
  for (uint first = 0; first < end; first += kPromptKeys) {
    fill_cache_rows<Stored>(shape, keys + bytes, first, end, index, tile);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    find_scores(q + block.first * shape.q_stride + head, shape.q_stride, shape.head_dim, tile,
                scores);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    fill_cache_rows<Stored>(shape, values + bytes, first, end, index, tile);
    const bool fades = take_scores(state, first, lane, scale, scores);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    add_values(mixed, fades, shape.head_dim, tile, scores);
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
  store_mixed(mixed, state.sum, args, block, lane, scores, out + head);
}

#define PROMPT_ATTENTION(name, Stored)                                                        \
  KERNEL(name, (constant PromptAttentionArgs & prompt_args [[buffer(0)]],                     \
                device const float* q [[buffer(1)]], device const uchar* keys [[buffer(2)]],  \
                device const uchar* values [[buffer(3)]], device float* out [[buffer(4)]],    \
                threadgroup float* tile THREADGROUP(0), THREAD)) {                            \
    const PromptAttentionArgs args = prompt_args;                                             \
    threadgroup float* scores =                                                               \
        tile + kPromptKeys * args.attention.head_dim + kPromptScores * simdgroup;             \
    attend_prompt<Stored>(args, q, keys, values, group, index, lane, simdgroup, tile, scores, \
                          out);                                                               \
  }

PROMPT_ATTENTION(prompt_attention_f32, StoredF32)
PROMPT_ATTENTION(prompt_attention_f16, StoredF16)
PROMPT_ATTENTION(prompt_attention_i8, StoredI8)
