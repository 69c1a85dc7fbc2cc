// Causal attention of one query row a threadgroup: scores, softmax and the sum of values in one
// pass over the cache (online softmax, Milakov and Gimelshein 2018). A simdgroup takes four
// positions at a time, a lane every 32nd dimension; the simdgroups' results are merged through
// threadgroup memory. Twin: backend/cpu/cpu_attention.cc.
#include "attention.h"
#include "device/floats.h"
#include "device/quantized.h"

constant constexpr uint kDimsPerLane = kMostHeadDim / 32;
constant constexpr uint kKeysAtOnce = 4;
constant constexpr float kLowest = -3.0e38f;  // finite: infinity less infinity is no number

/// What is known after some positions: largest score, sum of e^(score - largest), and the values
/// weighted so. `values[i]` is dimension lane + 32 i.
struct Softmax {
  float largest;
  float sum;
  float values[kDimsPerLane];
};

inline void start(thread Softmax& state) {
  state.largest = kLowest;
  state.sum = 0.0f;
  UNROLL
  for (uint i = 0; i < kDimsPerLane; ++i) state.values[i] = 0.0f;
}

/// One KV head's rows from position 0.
struct CachedRows {
  device const uchar* keys;
  device const uchar* values;
  uint head_dim;
  uint row_bytes;
};

template <typename Stored>
inline void add_positions(thread Softmax& state, thread const float* q,
                          thread const CachedRows& cache, uint first, uint end, uint lane) {
  Stored stored;
  float scores[kKeysAtOnce];
  UNROLL
  for (uint k = 0; k < kKeysAtOnce; ++k) {
    device const uchar* row = cache.keys + min(first + k, end - 1) * cache.row_bytes;
    float sum = 0.0f;
    UNROLL
    for (uint i = 0; i < kDimsPerLane; ++i) {
      const uint d = lane + 32 * i;
      if (d < cache.head_dim) sum = fma(q[i], read_stored(stored, row, d), sum);
    }
    scores[k] = sum * row_scale_of(stored, row, cache.head_dim);
  }
  float largest = state.largest;
  UNROLL
  for (uint k = 0; k < kKeysAtOnce; ++k) {
    scores[k] = simd_sum(scores[k]);
    scores[k] = first + k < end ? scores[k] : kLowest;
    largest = max(largest, scores[k]);
  }
  const float fade = fast::exp(state.largest - largest);
  state.largest = largest;
  state.sum *= fade;
  UNROLL
  for (uint i = 0; i < kDimsPerLane; ++i) state.values[i] *= fade;
  UNROLL
  for (uint k = 0; k < kKeysAtOnce; ++k) {
    device const uchar* row = cache.values + min(first + k, end - 1) * cache.row_bytes;
    const float power = first + k < end ? fast::exp(scores[k] - largest) : 0.0f;
    const float weight = power * row_scale_of(stored, row, cache.head_dim);
    state.sum += power;
    UNROLL
    for (uint i = 0; i < kDimsPerLane; ++i) {
      const uint d = lane + 32 * i;
      if (d >= cache.head_dim) continue;
      state.values[i] = fma(weight, read_stored(stored, row, d), state.values[i]);
    }
  }
}

/// Positions of one split, shared out to the threadgroup's simdgroups; each one's result goes to
/// results[simdgroup][head_dim + 2]. Ends in a barrier.
template <typename Stored>
inline void attend(thread const AttentionArgs& args, device const float* q,
                   device const uchar* keys, device const uchar* values, uint3 group, uint lane,
                   uint simdgroup, threadgroup float* results) {
  const uint kv_head = group.x / (args.heads / args.kv_heads);
  Stored stored;
  CachedRows cache;
  cache.row_bytes = row_bytes(stored, args.head_dim);
  const uint bytes = kv_head * args.capacity * cache.row_bytes;
  cache.keys = keys + bytes;
  cache.values = values + bytes;
  cache.head_dim = args.head_dim;
  const float scale = 1.0f / sqrt(float(args.head_dim));
  float scaled[kDimsPerLane];
  device const float* query = q + group.y * args.q_stride + group.x * args.head_dim;
  UNROLL
  for (uint i = 0; i < kDimsPerLane; ++i) {
    const uint d = lane + 32 * i;
    scaled[i] = d < args.head_dim ? query[d] * scale : 0.0f;
  }
  const uint positions = args.first_position + group.y + 1;
  const uint run = (positions + args.splits - 1) / args.splits;
  const uint end = min(positions, (group.z + 1) * run);
  Softmax state;
  start(state);
  const uint stride = kKeysAtOnce * kAttentionSimdgroups;
  for (uint p = group.z * run + kKeysAtOnce * simdgroup; p < end; p += stride) {
    add_positions<Stored>(state, scaled, cache, p, end, lane);
  }
  threadgroup float* own = results + simdgroup * (args.head_dim + 2);
  if (lane == 0) {
    own[0] = state.largest;
    own[1] = state.sum;
  }
  UNROLL
  for (uint i = 0; i < kDimsPerLane; ++i) {
    const uint d = lane + 32 * i;
    if (d < args.head_dim) own[2 + d] = state.values[i];
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
}

/// Results of several simdgroups or splits as one, for one dimension.
struct Merged {
  float largest;
  float sum;
  float value;
};

template <typename Pointer>  // to threadgroup or to device memory
inline Merged merge_results(Pointer results, uint count, uint width, uint d) {
  Merged merged = {kLowest, 0.0f, 0.0f};
  for (uint i = 0; i < count; ++i) merged.largest = max(merged.largest, results[i * width]);
  for (uint i = 0; i < count; ++i) {
    const float weight = fast::exp(results[i * width] - merged.largest);
    merged.sum = fma(weight, results[i * width + 1], merged.sum);
    merged.value = fma(weight, results[i * width + 2 + d], merged.value);
  }
  return merged;
}

/// Dimensions [32 * part, 32 * part + 32) of one head, a lane each, as floats or as one chunk.
inline void store_part(thread const AttentionArgs& args, float value, uint3 group, uint part,
                       uint lane, device uchar* out, device atomic_uint* status) {
  const uint columns = args.heads * args.head_dim;
  const uint d = 32 * part + lane;
  const uint column = group.x * args.head_dim + d;
  if ((args.flags & kAttentionQvec) != 0) {
    const uint chunks = columns / 32;
    device uint* qvec = (device uint*)out + group.y * qvec_words(chunks);
    write_chunk(value, 0.0f, column / 32, chunks, lane, qvec, status);
    if (group.x == 0 && d == 0) write_header(0, 1.0f, qvec);
  } else if (d < args.head_dim) {
    ((device float*)out)[group.y * args.out_stride + column] = value;
  }
}

#define ATTENTION(suffix, Stored)                                                                  \
  KERNEL(                                                                                          \
      attention_decode_##suffix,                                                                   \
      (constant AttentionArgs & attention_args [[buffer(0)]], device const float* q [[buffer(1)]], \
       device const uchar* keys [[buffer(2)]], device const uchar* values [[buffer(3)]],           \
       device uchar* out [[buffer(4)]], device atomic_uint* status [[buffer(5)]],                  \
       threadgroup float* results THREADGROUP(0), THREAD)) {                                       \
    const AttentionArgs args = attention_args;                                                     \
    attend<Stored>(args, q, keys, values, group, lane, simdgroup, results);                        \
    if (32 * simdgroup >= args.head_dim) return;                                                   \
    const uint width = args.head_dim + 2;                                                          \
    const uint d = min(index, args.head_dim - 1);                                                  \
    const Merged merged = merge_results(results, kAttentionSimdgroups, width, d);                  \
    store_part(args, merged.value / merged.sum, group, simdgroup, lane, out, status);              \
  }                                                                                                \
  KERNEL(                                                                                          \
      attention_split_##suffix,                                                                    \
      (constant AttentionArgs & attention_args [[buffer(0)]], device const float* q [[buffer(1)]], \
       device const uchar* keys [[buffer(2)]], device const uchar* values [[buffer(3)]],           \
       device float* partials [[buffer(4)]], threadgroup float* results THREADGROUP(0), THREAD)) { \
    const AttentionArgs args = attention_args;                                                     \
    attend<Stored>(args, q, keys, values, group, lane, simdgroup, results);                        \
    if (index >= args.head_dim) return;                                                            \
    const uint width = args.head_dim + 2;                                                          \
    const Merged merged = merge_results(results, kAttentionSimdgroups, width, index);              \
    const uint row = (group.y * args.heads + group.x) * args.splits + group.z;                     \
    device float* to = partials + row * width;                                                     \
    to[2 + index] = merged.value;                                                                  \
    if (index != 0) return;                                                                        \
    to[0] = merged.largest;                                                                        \
    to[1] = merged.sum;                                                                            \
  }

ATTENTION(f32, StoredF32)
ATTENTION(f16, StoredF16)
ATTENTION(i8, StoredI8)

KERNEL(attention_combine,
       (constant AttentionArgs & attention_args [[buffer(0)]],
        device const float* partials [[buffer(1)]], device uchar* out [[buffer(2)]],
        device atomic_uint* status [[buffer(3)]], THREAD)) {
  const AttentionArgs args = attention_args;
  const uint width = args.head_dim + 2;
  device const float* own = partials + (group.y * args.heads + group.x) * args.splits * width;
  for (uint part = 0; 32 * part < args.head_dim; ++part) {
    const uint d = min(32 * part + lane, args.head_dim - 1);
    const Merged merged = merge_results(own, args.splits, width, d);
    store_part(args, merged.value / merged.sum, group, part, lane, out, status);
  }
}
