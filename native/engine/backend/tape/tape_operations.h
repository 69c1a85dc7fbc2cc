// The operations of backend.h played backwards, as free functions, one per file. Every one adds to
// the gradients of its inputs. Tensors given as saved values are what the forward pass read.
#pragma once

#include <cstdint>
#include <span>

#include "backend/backend.h"
#include "base/buffer.h"
#include "base/thread_pool.h"

namespace subbit {

/// out = x * weight, scale = 1 / sqrt(mean(x^2) + eps), each row for itself.
struct RmsNormGradient {
  ConstMatrix x;
  std::span<const float> scales;  // [rows]
  std::span<const float> weight;
  ConstMatrix grad_out;
  std::span<const float> grad_scales;  // [rows]
};
/// `grad_weight` is empty where the norm is not tuned.
void rms_norm_backward(const RmsNormGradient& in, Matrix grad_x, std::span<float> grad_weight,
                       ThreadPool& pool);

/// Turns the gradient of the rotated rows, in place, into that of the rows before.
void rope_backward(const RopeTable& table, int64_t heads, Matrix grad, ThreadPool& pool);

/// out = silu(gate) * up.
struct SwigluGradient {
  ConstMatrix gate;
  ConstMatrix up;
  ConstMatrix grad_out;
};
void swiglu_backward(const SwigluGradient& in, Matrix grad_gate, Matrix grad_up, ThreadPool& pool);

/// Causal attention of a whole sequence over itself, from position 0.
struct AttentionGradient {
  AttentionShape shape;
  ConstMatrix q;
  ConstMatrix k;
  ConstMatrix v;
  ConstMatrix grad_out;
};
/// `scratch` grows to 2 * tokens^2 floats: one head's weights and their gradient, made again
/// instead of kept.
void attention_backward(const AttentionGradient& in, Matrix grad_q, Matrix grad_k, Matrix grad_v,
                        Buffer<float>& scratch, ThreadPool& pool);

}  // namespace subbit
