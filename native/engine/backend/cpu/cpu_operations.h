// The operations of backend.h as free functions, one per file; CpuBackend strings them together.
// Meanings, shapes and aliasing are those of backend.h. Shapes are checked in each.
#pragma once

#include <cstdint>
#include <span>

#include "backend/backend.h"
#include "base/buffer.h"
#include "base/thread_pool.h"
#include "formats/signs/multiply_scratch.h"
#include "formats/signs/quantized_rows.h"

namespace subbit {

/// Memory that operations reuse from call to call; grows to what the largest call needs.
struct CpuScratch {
  QuantizedRows quantized;
  MultiplyScratch multiply;
  Buffer<float> product;  // a linear's output before it joins the residual stream
};

void cpu_embed(const Weight& table, std::span<const int32_t> tokens, Tensor h, ThreadPool& pool);
void cpu_rms_norm(Tensor x, std::span<const float> weight, float eps, Tensor out, ThreadPool& pool);
void cpu_linear(const Linear& linear, Tensor x, Tensor y, OutputMode mode, CpuScratch& scratch,
                ThreadPool& pool);
void cpu_rope(const RopeTable& table, int64_t first_position, int64_t heads, Tensor x,
              ThreadPool& pool);

struct AttentionInput {
  AttentionShape shape;
  Tensor q;
  Tensor k;
  Tensor v;
  KvLayer kv;
  int64_t first_position = 0;
};
void cpu_attention(const AttentionInput& in, Tensor out, ThreadPool& pool);
void cpu_swiglu(Tensor gate, Tensor up, Tensor out, ThreadPool& pool);
int32_t cpu_argmax(Tensor logits);

}  // namespace subbit
