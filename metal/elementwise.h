// Arguments of the operations that a fused forward pass has inside other kernels' epilogues, and
// that stand alone where it cannot: rms_norm, rope, kv_append, swiglu, argmax (elementwise.metal).
#pragma once

#include "qvec.h"

namespace subbit {
namespace shader {

struct RmsNormArgs {
  uint32_t columns;
  uint32_t x_stride;
  uint32_t out_stride;
  float eps;
};

struct RopeArgs {
  uint32_t heads;
  uint32_t half_dim;
  uint32_t first_position;
  uint32_t x_stride;
};

struct KvAppendArgs {
  uint32_t kv_heads;
  uint32_t head_dim;
  uint32_t capacity;
  uint32_t first_position;
  uint32_t k_stride;
  uint32_t v_stride;
};

/// rope_append_i8: what lies between a stacked q, k, v and attention over an int8 cache.
struct RopeAppendArgs {
  uint32_t heads;
  uint32_t kv_heads;
  uint32_t head_dim;
  uint32_t capacity;
  uint32_t first_position;
  uint32_t q_stride;
  uint32_t k_stride;
  uint32_t v_stride;
};

struct SwigluArgs {
  uint32_t columns;
  uint32_t gate_stride;
  uint32_t up_stride;
  uint32_t out_stride;
};

struct ArgmaxArgs {
  uint32_t count;
};

enum : uint32_t {
  kElementThreads = 256,
  kElementSimdgroups = 8,
  kReduceBytes = 64,  // threadgroup memory 0 of rms_norm and argmax
};

}  // namespace shader
}  // namespace subbit
