// finish_terms: the epilogue of a linear that is a sum of several terms, whose integers lie in a
// buffer. The additions are in file order, as formats/packed/packed.cc has them: the first a
// product, the others fused.
#include "device/epilogue.h"

template <bool kAdd>
inline void finish_all_terms(thread const FinishArgs& args, constant float* gains, uint3 group,
                             uint index, uint lane, device const int* sums,
                             device const int* exponents, device const uint* qvec,
                             thread const RowScales& scales, device float* y,
                             device atomic_uint* status) {
  const uint token = group.y;
  const float rho = read_rho(qvec + token * qvec_words(args.input_chunks), args.input_chunks, lane);
  const uint row = group.x * kFinishThreads + index;
  float acc = 0.0f;
  for (uint t = 0; t < args.terms; ++t) {
    OutputScale scale;
    scale.exponent = exponents[t * args.tokens + token];
    scale.rho = rho;
    const float g = output_gain(scale, gains[t], index, status);
    if (row >= args.rows) continue;
    const float integer = float(sums[(t * args.tokens + token) * args.rows + row]);
    acc = t == 0 ? integer * g : fma(integer, g, acc);
  }
  if (row >= args.rows) return;
  float value = acc * float(scales.post[row]);
  if (scales.has_bias) value = value + scales.bias[row];
  device float* to = y + token * args.y_stride + row;
  *to = kAdd ? *to + value : value;
}

#define FINISH_TERMS(name, kAdd)                                                                 \
  KERNEL(name,                                                                                   \
         (constant FinishArgs & finish_args [[buffer(0)]], device const int* sums [[buffer(1)]], \
          device const int* exponents [[buffer(2)]], device const uint* qvec [[buffer(3)]],      \
          device const half* s_post [[buffer(4)]], device const float* bias [[buffer(5)]],       \
          device float* y [[buffer(6)]], device atomic_uint* status [[buffer(7)]], THREAD)) {    \
    const FinishArgs args = finish_args;                                                         \
    const RowScales scales = row_scales(s_post, bias, args.flags);                               \
    finish_all_terms<kAdd>(args, finish_args.gains, group, index, lane, sums, exponents, qvec,   \
                           scales, y, status);                                                   \
  }

FINISH_TERMS(finish_terms, false)
FINISH_TERMS(finish_terms_add, true)
