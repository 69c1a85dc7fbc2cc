// Matrix-vector products of the group-scaled formats, mostly for embeddings and heads. A simdgroup
// computes four rows; a lane takes every 32nd group. A chunk's integer sum is exact in float, and
// so is a group's but for one rounding, the one that float(I_g) of the CPU's reference makes; only
// the order across groups differs. Twins: formats/int4, formats/int8.
#include "device/quantized.h"
#include "groups.h"
#include "linear.h"

/// The codes of one chunk as floats, times 2^shift.
struct ScaledCodes {
  float codes[32];
};

inline void load_codes(thread ScaledCodes& chunk, device const uint* qvec, uint chunks, uint c,
                       int largest, uint headroom) {
  const ChunkShift s = chunk_shift(qvec[qvec_meta_at(chunks) + c], largest, headroom);
  device const uint* words = qvec + qvec_codes_at() + kQvecChunkWords * c;
  UNROLL
  for (uint i = 0; i < 32; ++i) {
    const int code = code_of(words[i / 4], i % 4);
    const int magnitude = int(magnitude_of(code) >> s.drop);
    chunk.codes[i] = float((code < 0 ? -magnitude : magnitude) << s.shift);
  }
}

/// 4-bit units: the first half of a group's columns are low nibbles, the second half high ones.
struct Int4 {};
struct Int8 {};

inline uint unit_bytes(thread const Int4&, uint group) { return group / 2; }
inline uint unit_bytes(thread const Int8&, uint group) { return group; }

/// The product with chunk `part` of the group.
inline float dot_chunk(thread const Int4&, device const uint* unit, uint group, uint part,
                       thread const ScaledCodes& chunk) {
  float sum = 0.0f;
  if (group == 64) {
    const uint shift = 4 * part;
    UNROLL
    for (uint i = 0; i < 32; ++i) {
      const int nibble = int((unit[i / 4] >> (8 * (i % 4) + shift)) & 15u) - 8;
      sum = fma(float(nibble), chunk.codes[i], sum);
    }
  } else {
    UNROLL
    for (uint i = 0; i < 32; ++i) {
      const int nibble = int((unit[i % 16 / 4] >> (8 * (i % 4) + i / 16 * 4)) & 15u) - 8;
      sum = fma(float(nibble), chunk.codes[i], sum);
    }
  }
  return sum;
}

inline float dot_chunk(thread const Int8&, device const uint* unit, uint, uint part,
                       thread const ScaledCodes& chunk) {
  float sum = 0.0f;
  UNROLL
  for (uint i = 0; i < 32; ++i) {
    const int code = code_of(unit[8 * part + i / 4], i % 4);
    sum = fma(float(code), chunk.codes[i], sum);
  }
  return sum;
}

template <typename Coding, bool kAdd>
inline void group_gemv(thread const GroupGemvArgs& args, device const uchar* weights,
                       device const uint* qvec, device const float* bias, device float* y,
                       uint first_row, uint lane) {
  Coding coding;
  const uint chunks = chunks_of_columns(args.columns);
  const uint chunks_in_group = args.group / 32;
  const uint bytes = unit_bytes(coding, args.group);
  const int largest = largest_exponent(qvec, chunks, lane);
  const float rho = read_rho(qvec, chunks, lane);
  float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  for (uint g = lane; g < args.groups; g += kSimdLanes) {
    float products[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (uint part = 0; part < chunks_in_group; ++part) {
      ScaledCodes chunk;
      load_codes(chunk, qvec, chunks, g * chunks_in_group + part, largest, args.headroom);
      UNROLL
      for (uint r = 0; r < 4; ++r) {
        if (first_row + r >= args.rows) continue;
        device const uint* unit =
            (device const uint*)(weights + ((first_row + r) * args.groups + g) * bytes);
        products[r] += dot_chunk(coding, unit, args.group, part, chunk);
      }
    }
    device const half* scales = (device const half*)(weights + args.scales_at);
    UNROLL
    for (uint r = 0; r < 4; ++r) {
      if (first_row + r >= args.rows) continue;
      sums[r] = fma(products[r], float(scales[(first_row + r) * args.groups + g]), sums[r]);
    }
  }
  const int exponent = as_type<int>(qvec[kHeaderExponent]) + sum_exponent(largest, args.headroom);
  const float gain = ldexp(1.0f, exponent) * rho;
  UNROLL
  for (uint r = 0; r < 4; ++r) {
    const float sum = simd_sum(sums[r]);
    if (lane != r || first_row + r >= args.rows) continue;
    float value = sum * gain;
    if ((args.flags & kEpilogueBias) != 0) value = value + bias[first_row + r];
    y[first_row + r] = kAdd ? y[first_row + r] + value : value;
  }
}

#define GROUP_GEMV(name, Coding, kAdd)                                                            \
  KERNEL(name, (constant GroupGemvArgs & group_args [[buffer(0)]],                                \
                device const uchar* weights [[buffer(1)]], device const uint* qvec [[buffer(2)]], \
                device const float* bias [[buffer(3)]], device float* y [[buffer(4)]], THREAD)) { \
    const GroupGemvArgs args = group_args;                                                        \
    const uint first_row = group.x * kGroupRows + 4 * simdgroup;                                  \
    const uint words = qvec_words(chunks_of_columns(args.columns));                               \
    group_gemv<Coding, kAdd>(args, weights, qvec + group.y * words, bias,                         \
                             y + group.y * args.y_stride, first_row, lane);                       \
  }

GROUP_GEMV(int4_gemv_store, Int4, false)
GROUP_GEMV(int4_gemv_add, Int4, true)
GROUP_GEMV(int8_gemv_store, Int8, false)
GROUP_GEMV(int8_gemv_add, Int8, true)
