// Weights of groups and of floats times a prompt by simdgroup_matrix: tiles of floats, one chain of
// multiply-adds along the columns for each sum. A group's scale is in its tile already, so that
// nothing needs to be done between groups; a code times a half scale is exact.
#include "dense.h"
#include "device/codings.h"
#include "device/floats.h"
#include "device/tiles.h"
#include "groups.h"

/// The threadgroup's; past the last one they repeat it.
struct PlainTokens {
  uint first;
  uint last;
};

inline uint token_count(thread const PlainTokens& tokens) {
  return min(tokens.last + 1 - tokens.first, uint(kGemmTokens));
}

inline uint token_of(thread const PlainTokens& tokens, uint token) {
  return min(tokens.first + token, tokens.last);
}

template <typename Coding>
inline void fill_group_rows(thread const GroupGemvArgs& args, device const uchar* weights, uint row,
                            uint c, thread const TilePlace& place, threadgroup float* tiles) {
  Coding coding;
  const uint chunks_in_group = args.group / 32;
  const uint unit = row * args.groups + c / chunks_in_group;
  device const uint* words = (device const uint*)(weights + unit * unit_bytes(coding, args.group));
  const float scale = float(((device const half*)(weights + args.scales_at))[unit]);
  threadgroup float* to = tiles + row_element(place.row, place.row_columns);
  UNROLL
  for (uint o = 0; o < 2; ++o) {
    float codes[8];
    const uint octet = 4 * (c % chunks_in_group) + place.row_columns / 8 + o;
    read_octet(coding, words, args.group, octet, codes);
    UNROLL
    for (uint i = 0; i < 8; ++i) to[64 * o + 8 * i] = codes[i] * scale;
  }
}

inline void fill_code_tokens(thread const GroupGemvArgs& args, device const uint* qvec, uint c,
                             int largest, thread const TilePlace& place, threadgroup float* tiles) {
  const uint meta = qvec[qvec_meta_at(chunks_of_columns(args.columns)) + c];
  const ChunkShift s = chunk_shift(meta, largest, args.headroom);
  device const uint* words = qvec + qvec_codes_at() + kQvecChunkWords * c + place.token_columns / 4;
  threadgroup float* to = tiles + token_element(place.token, place.token_columns);
  UNROLL
  for (uint i = 0; i < 8; ++i) {
    const int code = code_of(words[i / 4], i % 4);
    const int magnitude = int(magnitude_of(code) >> s.drop) << s.shift;
    to[i] = float(code < 0 ? -magnitude : magnitude);
  }
}

/// The threadgroup's sums into y. gains[token] is what a token's are multiplied by.
template <bool kAdd>
inline void store_sums(thread const TileSums& sums, threadgroup float* own,
                       threadgroup const float* gains, thread const PlainTokens& tokens,
                       uint first_row, uint rows, uint y_stride, device const float* bias,
                       bool has_bias, uint lane, uint simdgroup, device float* y) {
  float values[16];
  read_sums(sums, own, lane, values);
  UNROLL
  for (uint i = 0; i < 16; ++i) {
    const SumPlace place = sum_place(i, lane, simdgroup);
    const uint row = first_row + place.row;
    const uint token = tokens.first + place.token;
    if (token > tokens.last || row >= rows) continue;
    float value = values[i] * gains[place.token];
    if (has_bias) value = value + bias[row];
    device float* to = y + token * y_stride + row;
    *to = kAdd ? *to + value : value;
  }
}

template <typename Coding>
inline void group_gemm(thread const GroupGemvArgs& args, device const uchar* weights,
                       device const uint* qvec, thread const PlainTokens& tokens, uint3 group,
                       uint index, uint lane, uint simdgroup, threadgroup float* tiles,
                       threadgroup float* gains, threadgroup int* exponents,
                       thread TileSums& sums) {
  const TilePlace place = tile_place(index);
  const uint chunks = chunks_of_columns(args.columns);
  const uint words = qvec_words(chunks);
  for (uint t = simdgroup; t < kGemmTokens; t += kGemmSimdgroups) {
    device const uint* own = qvec + token_of(tokens, t) * words;
    const int most = largest_exponent(own, chunks, lane);
    const int exponent = as_type<int>(own[kHeaderExponent]) + sum_exponent(most, args.headroom);
    const float gain = ldexp(1.0f, exponent) * read_rho(own, chunks, lane);
    if (lane != 0) continue;
    gains[t] = gain;
    exponents[t] = most;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const int largest = exponents[place.token];
  device const uint* own = qvec + token_of(tokens, place.token) * words;
  const uint row = min(kGemmRows * group.x + place.row, args.rows - 1);
  clear_sums(sums);
  for (uint c = 0; c < chunks; ++c) {
    fill_group_rows<Coding>(args, weights, row, c, place, tiles);
    fill_code_tokens(args, own, c, largest, place, tiles);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    multiply_tiles(sums, tiles, token_count(tokens), simdgroup);
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
}

#define GROUP_GEMM(name, Coding, kAdd)                                                            \
  KERNEL(name, (constant GroupGemvArgs & group_args [[buffer(0)]],                                \
                device const uchar* weights [[buffer(1)]], device const uint* qvec [[buffer(2)]], \
                device const float* bias [[buffer(3)]], device float* y [[buffer(4)]],            \
                threadgroup float* tiles THREADGROUP(0), THREAD)) {                               \
    const GroupGemvArgs args = group_args;                                                        \
    const PlainTokens tokens = {kGemmTokens * group.y, args.tokens - 1};                          \
    threadgroup float* reading = tiles + kGemmElements;                                           \
    threadgroup float* gains = reading + 64 * kGemmSimdgroups;                                    \
    TileSums sums;                                                                                \
    group_gemm<Coding>(args, weights, qvec, tokens, group, index, lane, simdgroup, tiles, gains,  \
                       (threadgroup int*)reading, sums);                                          \
    store_sums<kAdd>(sums, reading + 64 * simdgroup, gains, tokens, kGemmRows * group.x,          \
                     args.rows, args.y_stride, bias, (args.flags & kEpilogueBias) != 0, lane,     \
                     simdgroup, y);                                                               \
  }

GROUP_GEMM(int2_gemm_store, Int2, false)
GROUP_GEMM(int2_gemm_add, Int2, true)
GROUP_GEMM(int3_gemm_store, Int3, false)
GROUP_GEMM(int3_gemm_add, Int3, true)
GROUP_GEMM(int4_gemm_store, Int4, false)
GROUP_GEMM(int4_gemm_add, Int4, true)
GROUP_GEMM(int8_gemm_store, Int8, false)
GROUP_GEMM(int8_gemm_add, Int8, true)

template <typename Stored>
inline void dense_gemm(thread const DenseGemvArgs& args, device const uchar* weights,
                       device const float* x, thread const PlainTokens& tokens, uint3 group,
                       uint index, uint simdgroup, threadgroup float* tiles,
                       thread TileSums& sums) {
  Stored stored;
  const TilePlace place = tile_place(index);
  const uint row = min(kGemmRows * group.x + place.row, args.rows - 1);
  device const float* own = x + token_of(tokens, place.token) * args.x_stride;
  threadgroup float* to_rows = tiles + row_element(place.row, place.row_columns);
  threadgroup float* to_tokens = tiles + token_element(place.token, place.token_columns);
  clear_sums(sums);
  for (uint first = 0; first < args.columns; first += kGemmColumns) {
    UNROLL
    for (uint i = 0; i < 16; ++i) {
      const uint column = first + place.row_columns + i;
      float w = 0.0f;
      if (column < args.columns) w = read_stored(stored, weights, row * args.columns + column);
      to_rows[64 * (i / 8) + 8 * (i % 8)] = w;
    }
    UNROLL
    for (uint i = 0; i < 8; ++i) {
      const uint column = first + place.token_columns + i;
      const float value = column < args.columns ? own[column] : 0.0f;
      to_tokens[i] = value;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    multiply_tiles(sums, tiles, token_count(tokens), simdgroup);
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
}

#define DENSE_GEMM(name, Stored, kAdd)                                                          \
  KERNEL(name,                                                                                  \
         (constant DenseGemvArgs & dense_args [[buffer(0)]],                                    \
          device const uchar* weights [[buffer(1)]], device const float* x [[buffer(2)]],       \
          device const float* row_scale [[buffer(3)]], device const float* bias [[buffer(4)]],  \
          device float* y [[buffer(5)]], threadgroup float* tiles THREADGROUP(0), THREAD)) {    \
    const DenseGemvArgs args = dense_args;                                                      \
    const PlainTokens tokens = {kGemmTokens * group.y, args.tokens - 1};                        \
    threadgroup float* reading = tiles + kGemmElements;                                         \
    threadgroup float* gains = reading + 64 * kGemmSimdgroups;                                  \
    const bool scaled = (args.flags & kDenseRowScale) != 0;                                     \
    if (index < kGemmTokens) gains[index] = scaled ? row_scale[token_of(tokens, index)] : 1.0f; \
    TileSums sums;                                                                              \
    dense_gemm<Stored>(args, weights, x, tokens, group, index, simdgroup, tiles, sums);         \
    store_sums<kAdd>(sums, reading + 64 * simdgroup, gains, tokens, kGemmRows * group.x,        \
                     args.rows, args.y_stride, bias, (args.flags & kDenseBias) != 0, lane,      \
                     simdgroup, y);                                                             \
  }

DENSE_GEMM(dense_gemm_f32_store, StoredF32, false)
DENSE_GEMM(dense_gemm_f32_add, StoredF32, true)
DENSE_GEMM(dense_gemm_f16_store, StoredF16, false)
DENSE_GEMM(dense_gemm_f16_add, StoredF16, true)
DENSE_GEMM(dense_gemm_bf16_store, StoredBf16, false)
DENSE_GEMM(dense_gemm_bf16_add, StoredBf16, true)
