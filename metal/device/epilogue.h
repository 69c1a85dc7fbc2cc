// From a linear's integers to what its reader wants, in the order of operations that
// formats/packed/packed.cc writes out: float(I) * G, * s_post, + bias, then the reader's own.
// Each function is called by every thread of a threadgroup whose integers lie as multiply_signs
// left them.
#pragma once

#include "gemv.h"

/// The scales that the integers of one token are multiplied by.
struct OutputScale {
  int exponent;  // of the integers: y = I * 2^exponent * gain * rho
  float rho;
};

inline OutputScale output_scale(thread const GemvInput& input, uint lane) {
  OutputScale scale;
  scale.exponent =
      as_type<int>(input.qvec[kHeaderExponent]) + sum_exponent(input.largest, input.headroom);
  scale.rho = read_rho(input.qvec, input.chunks, lane);
  return scale;
}

inline float output_gain(thread const OutputScale& scale, float gain, uint index,
                         device atomic_uint* status) {
  const float g = ldexp(gain, scale.exponent) * scale.rho;
  if (!isnormal(g) && index == 0) {
    set_status(status, kStatusScale);
  }
  return g;
}

/// The vectors of a packed linear [rows].
struct RowScales {
  device const half* post;
  device const float* bias;
  bool has_bias;
};

inline float finish_row(int integer, float g, uint row, thread const RowScales& scales) {
  float value = (float(integer) * g) * float(scales.post[row]);
  if (scales.has_bias) value = value + scales.bias[row];
  return value;
}

/// Neighbouring quads (pair_quads 1): thread `index` has row 8 * pairs of the threadgroups before +
/// index. -1 where there is none.
struct OwnRow {
  bool valid;
  uint row;
  int integer;
};

inline OwnRow own_row(threadgroup const int* integers, thread const GemvPlace& place, uint rows,
                      uint index) {
  OwnRow own;
  own.row = 8 * place.first_pair + index;
  own.valid = index < 8 * place.pairs && own.row < rows;
  const uint at = 4 * (index / 4 % 2 * place.pairs + index / 8) + index % 4;
  own.integer = own.valid ? integers[at] : 0;
  return own;
}

/// Whether this simdgroup's lanes own a chunk of an output of `chunks` chunks, at 32 rows each.
inline bool owns_chunk(thread const GemvPlace& place, uint rows_per_pair, uint simdgroup,
                       uint chunks) {
  const uint first = place.first_pair * rows_per_pair / 32;
  return simdgroup < place.pairs * rows_per_pair / 32 && first + simdgroup < chunks;
}

inline float silu(float gate) { return gate / (1.0f + exp(-gate)); }

inline GemvInput gemv_input(device const uint* qvec, thread const GemvArgs& args, uint lane) {
  GemvInput input;
  input.qvec = qvec;
  input.chunks = args.input_chunks;
  input.largest = largest_exponent(qvec, args.input_chunks, lane);
  input.headroom = args.headroom;
  return input;
}

/// Of the tokens of block `block`; those past the last repeat it, and nobody reads what they give.
template <uint kTokens>
inline void gemv_inputs(thread GemvInput* inputs, device const uint* qvecs,
                        thread const GemvArgs& args, uint block, uint lane) {
  UNROLL
  for (uint t = 0; t < kTokens; ++t) {
    uint token = block * kTokens + t;
    if (kTokens > 1) token = min(token, args.tokens - 1);
    inputs[t] = gemv_input(qvecs + token * qvec_words(args.input_chunks), args, lane);
  }
}

inline RowScales row_scales(device const half* post, device const float* bias, uint flags) {
  RowScales scales;
  scales.post = post;
  scales.bias = bias;
  scales.has_bias = (flags & kEpilogueBias) != 0;
  return scales;
}

/// sums: the integers themselves, for finish_terms.
inline void finish_sums(threadgroup const int* integers, thread const GemvArgs& args,
                        thread const EpilogueArgs& epilogue, thread const GemvPlace& place,
                        thread const OutputScale& scale, uint3 group, uint index, device int* sums,
                        device int* exponents) {
  const OwnRow own = own_row(integers, place, args.rows, index);
  if (own.valid) sums[group.y * epilogue.y_stride + own.row] = own.integer;
  if (group.x == 0 && index == 0) exponents[group.y] = scale.exponent;
}

/// rank: the vector between a factored linear's stages, quantized as it is; its exponent and rho
/// wait in the header.
inline void finish_rank(threadgroup const int* integers, thread const GemvArgs& args,
                        thread const EpilogueArgs& epilogue, thread const GemvPlace& place,
                        thread const OutputScale& scale, uint3 group, uint index,
                        device const half* s_mid, device uint* out, device atomic_uint* status) {
  const uint chunks = chunks_of_columns(args.rows);
  device uint* qvec = out + group.y * qvec_words(chunks);
  const OwnRow own = own_row(integers, place, args.rows, index);
  float z = float(own.integer);
  if (own.valid && (epilogue.flags & kEpilogueMidScale) != 0) z = z * float(s_mid[own.row]);
  if (owns_chunk(place, 8, index / kSimdLanes, chunks)) {
    write_chunk(z, 0.0f, own.row / 32, chunks, index % kSimdLanes, qvec, status);
  }
  if (group.x == 0 && index == 0) write_header(scale.exponent, scale.rho, qvec);
}

/// store and add: floats.
template <bool kAdd>
inline void finish_rows(threadgroup const int* integers, thread const GemvArgs& args,
                        thread const EpilogueArgs& epilogue, thread const GemvPlace& place,
                        thread const OutputScale& scale, uint3 group, uint index,
                        thread const RowScales& scales, device float* y,
                        device atomic_uint* status) {
  const float g = output_gain(scale, epilogue.gain, index, status);
  const OwnRow own = own_row(integers, place, args.rows, index);
  if (!own.valid) return;
  const float value = finish_row(own.integer, g, own.row, scales);
  device float* to = y + group.y * epilogue.y_stride + own.row;
  *to = kAdd ? *to + value : value;
}

/// add_norm: the residual stream, and what the norm after it reads.
inline void finish_add_norm(threadgroup const int* integers, thread const GemvArgs& args,
                            thread const EpilogueArgs& epilogue, thread const GemvPlace& place,
                            thread const OutputScale& scale, uint3 group, uint index,
                            thread const RowScales& scales, device float* h,
                            device const float* weight, device uint* out,
                            device atomic_uint* status) {
  const uint chunks = chunks_of_columns(args.rows);
  device uint* qvec = out + group.y * qvec_words(chunks);
  const float g = output_gain(scale, epilogue.gain, index, status);
  const OwnRow own = own_row(integers, place, args.rows, index);
  float sum = 0.0f;
  float normed = 0.0f;
  if (own.valid) {
    device float* to = h + group.y * epilogue.y_stride + own.row;
    sum = *to + finish_row(own.integer, g, own.row, scales);
    *to = sum;
    normed = sum * weight[own.row];
  }
  if (owns_chunk(place, 8, index / kSimdLanes, chunks)) {
    write_chunk(normed, sum * sum, own.row / 32, chunks, index % kSimdLanes, qvec, status);
  }
  if (group.x == 0 && index == 0) write_norm_header(args.rows, epilogue.eps, qvec);
}

/// Distant quads (pair_quads > 1): thread `index` has row r of the near quad of a pair and of the
/// far one.
struct OwnPair {
  bool valid;
  uint pair;
  uint row;  // inside the quad
  int near_integer;
  int far_integer;
};

inline OwnPair own_pair(threadgroup const int* integers, thread const GemvPlace& place, uint rows,
                        uint index) {
  OwnPair own;
  own.pair = place.first_pair + index / 4;
  own.row = index % 4;
  own.valid = index < 4 * place.pairs && own.pair < rows / 8;
  own.near_integer = own.valid ? integers[index] : 0;
  own.far_integer = own.valid ? integers[4 * place.pairs + index] : 0;
  return own;
}

/// swiglu: silu(gate) * up, quantized for the linear that follows.
inline void finish_swiglu(threadgroup const int* integers, thread const GemvArgs& args,
                          thread const EpilogueArgs& epilogue, thread const GemvPlace& place,
                          thread const OutputScale& scale, uint3 group, uint index,
                          thread const RowScales& scales, device uint* out,
                          device atomic_uint* status) {
  const uint columns = args.rows / 2;
  const uint chunks = chunks_of_columns(columns);
  device uint* qvec = out + group.y * qvec_words(chunks);
  const float g = output_gain(scale, epilogue.gain, index, status);
  const OwnPair own = own_pair(integers, place, args.rows, index);
  const uint column = 4 * own.pair + own.row;
  float product = 0.0f;
  if (own.valid) {
    const float gate = finish_row(own.near_integer, g, column, scales);
    const float up = finish_row(own.far_integer, g, column + columns, scales);
    product = silu(gate) * up;
  }
  if (owns_chunk(place, 4, index / kSimdLanes, chunks)) {
    write_chunk(product, 0.0f, column / 32, chunks, index % kSimdLanes, qvec, status);
  }
  if (group.x == 0 && index == 0) write_header(0, 1.0f, qvec);
}

struct QkvTargets {
  device float* q;
  device uchar* keys;
  device uchar* values;
  device const float* cosine;
  device const float* sine;
};

inline void store_cached(device uchar* cache, bool halves, uint at, float value) {
  if (halves) {
    ((device half*)cache)[at] = half(value);
  } else {
    ((device float*)cache)[at] = value;
  }
}

/// qkv: rotates the halves of each head of q and k, then q to its rows, k and v to the cache.
inline void finish_qkv(threadgroup const int* integers, thread const GemvArgs& args,
                       thread const EpilogueArgs& epilogue, thread const GemvPlace& place,
                       thread const OutputScale& scale, uint3 group, uint index,
                       thread const RowScales& scales, thread const QkvTargets& targets,
                       device atomic_uint* status) {
  const float g = output_gain(scale, epilogue.gain, index, status);
  const OwnPair own = own_pair(integers, place, args.rows, index);
  if (!own.valid) return;
  const uint half_dim = epilogue.head_dim / 2;
  const uint head = own.pair / args.pair_quads;
  const uint i = own.pair % args.pair_quads * 4 + own.row;  // of the half
  const uint row = head * epilogue.head_dim + i;
  float a = finish_row(own.near_integer, g, row, scales);
  float b = finish_row(own.far_integer, g, row + half_dim, scales);
  const uint position = epilogue.first_position + group.y;
  if (head < epilogue.heads + epilogue.kv_heads) {
    const float cosine = targets.cosine[position * half_dim + i];
    const float sine = targets.sine[position * half_dim + i];
    const float low = a * cosine - b * sine;
    b = b * cosine + a * sine;
    a = low;
  }
  if (head < epilogue.heads) {
    targets.q[group.y * epilogue.y_stride + row] = a;
    targets.q[group.y * epilogue.y_stride + row + half_dim] = b;
    return;
  }
  const bool key = head < epilogue.heads + epilogue.kv_heads;
  const uint kv_head = head - epilogue.heads - (key ? 0 : epilogue.kv_heads);
  const uint at = (kv_head * epilogue.capacity + position) * epilogue.head_dim + i;
  const bool halves = (epilogue.flags & kEpilogueHalfCache) != 0;
  device uchar* cache = key ? targets.keys : targets.values;
  store_cached(cache, halves, at, a);
  store_cached(cache, halves, at + half_dim, b);
}
