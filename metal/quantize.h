// Arguments of `quantize` (quantize.metal): rows of floats to QVecs, with what comes right before
// it in a forward pass. The CPU's twins: rms_norm, swiglu, quantize_rows.
#pragma once

#include "qvec.h"

namespace subbit {
namespace shader {

enum QuantizeFlag : uint32_t {
  kQuantizeNorm = 1,      // v = x * weight; squares of x and eps go into the QVec
  kQuantizeSwiglu = 2,    // v = silu(x) * x[columns right of it by `up_offset`]
  kQuantizePreScale = 4,  // v = v * s_pre, after the above
  kQuantizeRowScale = 8,  // rho is row_scale[token]; not with kQuantizeNorm
};

struct QuantizeArgs {
  uint32_t columns;
  uint32_t flags;      // QuantizeFlag
  uint32_t x_stride;   // floats between tokens
  uint32_t up_offset;  // floats from gate to up
  float eps;
};

enum : uint32_t { kQuantizeThreads = 256, kQuantizeChunks = 8 };  // of one threadgroup

inline uint32_t quantize_groups(uint32_t columns) {
  return (chunks_of_columns(columns) + kQuantizeChunks - 1) / kQuantizeChunks;
}

}  // namespace shader
}  // namespace subbit
