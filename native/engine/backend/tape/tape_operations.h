// The operations of backend.h played backwards, as free functions, one per file. Every one adds to
// the gradients of its inputs. Tensors given as saved values are what the forward pass read.
// Attention is here forwards too: of whole sequences it is matrix products.
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

/// Turns the gradient of the rotated rows, in place, into that of the rows before. Rows are
/// sequences of `lengths`, one after another, each from position 0.
void rope_backward(const RopeTable& table, int64_t heads, std::span<const int64_t> lengths,
                   Matrix grad, ThreadPool& pool);

/// out = silu(gate) * up.
struct SwigluGradient {
  ConstMatrix gate;
  ConstMatrix up;
  ConstMatrix grad_out;
};
void swiglu_backward(const SwigluGradient& in, Matrix grad_gate, Matrix grad_up, ThreadPool& pool);

/// Causal attention of whole sequences over themselves, from position 0: rows are sequences of
/// `lengths`, one after another.
struct AttentionTensors {
  AttentionShape shape;
  std::span<const int64_t> lengths;
  ConstMatrix q;
  ConstMatrix k;
  ConstMatrix v;
};
struct AttentionGradients {
  Matrix q;
  Matrix k;
  Matrix v;
};
/// `scratch` grows to 64 floats a token of the longest sequence for each thread; backwards 128: the
/// weights are made again instead of kept.
void attention_forward(const AttentionTensors& in, Matrix out, Buffer<float>& scratch,
                       ThreadPool& pool);
void attention_backward(const AttentionTensors& in, ConstMatrix grad_out,
                        const AttentionGradients& to, Buffer<float>& scratch, ThreadPool& pool);

}  // namespace subbit
