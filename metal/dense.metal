// Matrix-vector products of plain float weights: what an uncompressed model runs on, and a head
// kept in half. A simdgroup computes four rows, a lane every 32nd column. Twin: formats/dense.
#include "dense.h"
#include "device/floats.h"
#include "device/quantized.h"

template <typename Stored, bool kAdd>
inline void dense_gemv(thread const DenseGemvArgs& args, device const uchar* weights,
                       device const float* x, float scale, device const float* bias,
                       device float* y, uint first_row, uint lane) {
  Stored stored;
  float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  for (uint j = lane; j < args.columns; j += kSimdLanes) {
    const float value = x[j];
    UNROLL
    for (uint r = 0; r < 4; ++r) {
      if (first_row + r >= args.rows) continue;
      const float w = read_stored(stored, weights, (first_row + r) * args.columns + j);
      sums[r] = fma(w, value, sums[r]);
    }
  }
  UNROLL
  for (uint r = 0; r < 4; ++r) {
    const float sum = simd_sum(sums[r]);
    if (lane != r || first_row + r >= args.rows) continue;
    float value = sum * scale;
    if ((args.flags & kDenseBias) != 0) value = value + bias[first_row + r];
    y[first_row + r] = kAdd ? y[first_row + r] + value : value;
  }
}

#define DENSE_GEMV(name, Stored, kAdd)                                                            \
  KERNEL(name, (constant DenseGemvArgs & dense_args [[buffer(0)]],                                \
                device const uchar* weights [[buffer(1)]], device const float* x [[buffer(2)]],   \
                device const float* row_scale [[buffer(3)]],                                      \
                device const float* bias [[buffer(4)]], device float* y [[buffer(5)]], THREAD)) { \
    const DenseGemvArgs args = dense_args;                                                        \
    const float scale = (args.flags & kDenseRowScale) != 0 ? row_scale[group.y] : 1.0f;           \
    dense_gemv<Stored, kAdd>(args, weights, x + group.y * args.x_stride, scale, bias,             \
                             y + group.y * args.y_stride, group.x * kDenseRows + 4 * simdgroup,   \
                             lane);                                                               \
  }

DENSE_GEMV(dense_gemv_f32_store, StoredF32, false)
DENSE_GEMV(dense_gemv_f32_add, StoredF32, true)
DENSE_GEMV(dense_gemv_f16_store, StoredF16, false)
DENSE_GEMV(dense_gemv_f16_add, StoredF16, true)
DENSE_GEMV(dense_gemv_bf16_store, StoredBf16, false)
DENSE_GEMV(dense_gemv_bf16_add, StoredBf16, true)
