// Products of plain float weights: what an uncompressed model runs on, and a head kept in half. A
// simdgroup computes four rows of one token or of kColumnTokens, a lane every 32nd column. Twin:
// formats/dense.
#include "dense.h"
#include "device/floats.h"
#include "device/quantized.h"
#include "linear.h"

/// The tokens of one dispatch.
struct DenseTokens {
  device const float* x;
  device const float* row_scale;
  device float* y;
};

template <typename Stored, bool kAdd, uint kTokens>
inline void dense_gemv(thread const DenseGemvArgs& args, device const uchar* weights,
                       thread const DenseTokens& tokens, device const float* bias, uint first_row,
                       uint block, uint lane) {
  Stored stored;
  device const float* x[kTokens];
  float sums[4 * kTokens];
  UNROLL
  for (uint t = 0; t < kTokens; ++t) {
    // Those past the last repeat it, and nobody reads what they give.
    x[t] = tokens.x + min(block * kTokens + t, args.tokens - 1) * args.x_stride;
  }
  UNROLL
  for (uint i = 0; i < 4 * kTokens; ++i) sums[i] = 0.0f;
  for (uint j = lane; j < args.columns; j += kSimdLanes) {
    float values[kTokens];
    UNROLL
    for (uint t = 0; t < kTokens; ++t) values[t] = x[t][j];
    UNROLL
    for (uint r = 0; r < 4; ++r) {
      if (first_row + r >= args.rows) continue;
      const float w = read_stored(stored, weights, (first_row + r) * args.columns + j);
      UNROLL
      for (uint t = 0; t < kTokens; ++t) sums[4 * t + r] = fma(w, values[t], sums[4 * t + r]);
    }
  }
  UNROLL
  for (uint i = 0; i < 4 * kTokens; ++i) {
    const uint row = first_row + i % 4;
    const uint token = block * kTokens + i / 4;
    const float sum = simd_sum(sums[i]);
    if (lane != i % 4 || row >= args.rows || token >= args.tokens) continue;
    float value = sum;
    if ((args.flags & kDenseRowScale) != 0) value = value * tokens.row_scale[token];
    if ((args.flags & kDenseBias) != 0) value = value + bias[row];
    device float* to = tokens.y + token * args.y_stride + row;
    *to = kAdd ? *to + value : value;
  }
}

#define DENSE_GEMV(name, Stored, kAdd, kTokens)                                                   \
  KERNEL(name, (constant DenseGemvArgs & dense_args [[buffer(0)]],                                \
                device const uchar* weights [[buffer(1)]], device const float* x [[buffer(2)]],   \
                device const float* row_scale [[buffer(3)]],                                      \
                device const float* bias [[buffer(4)]], device float* y [[buffer(5)]], THREAD)) { \
    const DenseGemvArgs args = dense_args;                                                        \
    const DenseTokens tokens = {x, row_scale, y};                                                 \
    const uint first_row = group.x * kDenseRows + 4 * simdgroup;                                  \
    dense_gemv<Stored, kAdd, kTokens>(args, weights, tokens, bias, first_row, group.y, lane);     \
  }

#define DENSE_KERNELS(type, Stored)                                      \
  DENSE_GEMV(dense_gemv_##type##_store, Stored, false, 1)                \
  DENSE_GEMV(dense_gemv_##type##_add, Stored, true, 1)                   \
  DENSE_GEMV(dense_columns_##type##_store, Stored, false, kColumnTokens) \
  DENSE_GEMV(dense_columns_##type##_add, Stored, true, kColumnTokens)

DENSE_KERNELS(f32, StoredF32)
DENSE_KERNELS(f16, StoredF16)
DENSE_KERNELS(bf16, StoredBf16)
