// Products of the group-scaled formats, mostly for embeddings and heads. A simdgroup computes four
// rows of one token or of kColumnTokens; a lane takes every 32nd group, eight columns at a time. A
// chunk's integer sum is exact in float, and so is a group's but for one rounding, the one that
// float(I_g) of the CPU's reference makes; only the order across groups differs. Twins:
// formats/int2, int3, int4, int8.
#include "device/codings.h"
#include "device/quantized.h"
#include "groups.h"
#include "linear.h"

/// Codes of columns [8 octet, 8 octet + 8) of a chunk, as floats before the chunk's shift.
inline void load_octet(device const uint* words, uint octet, uint drop, thread float* codes) {
  UNROLL
  for (uint i = 0; i < 8; ++i) {
    const int code = code_of(words[2 * octet + i / 4], i % 4);
    const int magnitude = int(magnitude_of(code) >> drop);
    codes[i] = float(code < 0 ? -magnitude : magnitude);
  }
}

/// What the vectors of a threadgroup's tokens are multiplied with.
template <uint kTokens>
struct GroupInputs {
  device const uint* qvecs[kTokens];
  int largest[kTokens];
};

/// products[4 t + r] += the integers of one chunk, columns [32 part, 32 part + 32) of group g.
template <typename Coding, uint kTokens>
inline void add_group_chunk(thread const GroupGemvArgs& args,
                            thread const GroupInputs<kTokens>& inputs, device const uchar* weights,
                            uint first_row, uint g, uint part, thread float* products) {
  Coding coding;
  const uint chunks = chunks_of_columns(args.columns);
  const uint c = g * (args.group / 32) + part;
  const uint bytes = unit_bytes(coding, args.group);
  ChunkShift shifts[kTokens];
  float sums[4 * kTokens];
  UNROLL
  for (uint t = 0; t < kTokens; ++t) {
    const uint meta = inputs.qvecs[t][qvec_meta_at(chunks) + c];
    shifts[t] = chunk_shift(meta, inputs.largest[t], args.headroom);
  }
  UNROLL
  for (uint i = 0; i < 4 * kTokens; ++i) sums[i] = 0.0f;
  for (uint octet = 0; octet < 4; ++octet) {
    float codes[8 * kTokens];
    UNROLL
    for (uint t = 0; t < kTokens; ++t) {
      device const uint* words = inputs.qvecs[t] + qvec_codes_at() + kQvecChunkWords * c;
      load_octet(words, octet, shifts[t].drop, codes + 8 * t);
    }
    UNROLL
    for (uint r = 0; r < 4; ++r) {
      if (first_row + r >= args.rows) continue;
      device const uint* unit =
          (device const uint*)(weights + ((first_row + r) * args.groups + g) * bytes);
      float w[8];
      read_octet(coding, unit, args.group, 4 * part + octet, w);
      UNROLL
      for (uint t = 0; t < kTokens; ++t) {
        UNROLL
        for (uint i = 0; i < 8; ++i) sums[4 * t + r] = fma(w[i], codes[8 * t + i], sums[4 * t + r]);
      }
    }
  }
  UNROLL
  for (uint i = 0; i < 4 * kTokens; ++i) {
    products[i] += sums[i] * float(1u << shifts[i / 4].shift);  // a product by 2^n is exact
  }
}

template <typename Coding, bool kAdd, uint kTokens>
inline void group_gemv(thread const GroupGemvArgs& args, device const uchar* weights,
                       device const uint* qvecs, device const float* bias, device float* y,
                       uint first_row, uint block, uint lane) {
  const uint chunks = chunks_of_columns(args.columns);
  GroupInputs<kTokens> inputs;
  UNROLL
  for (uint t = 0; t < kTokens; ++t) {
    // Those past the last repeat it, and nobody reads what they give.
    const uint token = min(block * kTokens + t, args.tokens - 1);
    inputs.qvecs[t] = qvecs + token * qvec_words(chunks);
    inputs.largest[t] = largest_exponent(inputs.qvecs[t], chunks, lane);
  }
  float sums[4 * kTokens];
  UNROLL
  for (uint i = 0; i < 4 * kTokens; ++i) sums[i] = 0.0f;
  device const half* scales = (device const half*)(weights + args.scales_at);
  for (uint g = lane; g < args.groups; g += kSimdLanes) {
    float products[4 * kTokens];
    UNROLL
    for (uint i = 0; i < 4 * kTokens; ++i) products[i] = 0.0f;
    for (uint part = 0; part < args.group / 32; ++part) {
      add_group_chunk<Coding, kTokens>(args, inputs, weights, first_row, g, part, products);
    }
    UNROLL
    for (uint r = 0; r < 4; ++r) {
      if (first_row + r >= args.rows) continue;
      const float scale = float(scales[(first_row + r) * args.groups + g]);
      UNROLL
      for (uint t = 0; t < kTokens; ++t) {
        sums[4 * t + r] = fma(products[4 * t + r], scale, sums[4 * t + r]);
      }
    }
  }
  UNROLL
  for (uint t = 0; t < kTokens; ++t) {
    const uint token = block * kTokens + t;
    const int exponent = as_type<int>(inputs.qvecs[t][kHeaderExponent]) +
                         sum_exponent(inputs.largest[t], args.headroom);
    const float gain = ldexp(1.0f, exponent) * read_rho(inputs.qvecs[t], chunks, lane);
    UNROLL
    for (uint r = 0; r < 4; ++r) {
      const float sum = simd_sum(sums[4 * t + r]);
      if (lane != r || first_row + r >= args.rows || token >= args.tokens) continue;
      float value = sum * gain;
      if ((args.flags & kEpilogueBias) != 0) value = value + bias[first_row + r];
      device float* to = y + token * args.y_stride + first_row + r;
      *to = kAdd ? *to + value : value;
    }
  }
}

#define GROUP_GEMV(name, Coding, kAdd, kTokens)                                                   \
  KERNEL(name, (constant GroupGemvArgs & group_args [[buffer(0)]],                                \
                device const uchar* weights [[buffer(1)]], device const uint* qvec [[buffer(2)]], \
                device const float* bias [[buffer(3)]], device float* y [[buffer(4)]], THREAD)) { \
    const GroupGemvArgs args = group_args;                                                        \
    const uint first_row = group.x * kGroupRows + 4 * simdgroup;                                  \
    group_gemv<Coding, kAdd, kTokens>(args, weights, qvec, bias, y, first_row, group.y, lane);    \
  }

#define GROUP_KERNELS(name, Coding)                              \
  GROUP_GEMV(name##_gemv_store, Coding, false, 1)                \
  GROUP_GEMV(name##_gemv_add, Coding, true, 1)                   \
  GROUP_GEMV(name##_columns_store, Coding, false, kColumnTokens) \
  GROUP_GEMV(name##_columns_add, Coding, true, kColumnTokens)

GROUP_KERNELS(int2, Int2)
GROUP_KERNELS(int3, Int3)
GROUP_KERNELS(int4, Int4)
GROUP_KERNELS(int8, Int8)
