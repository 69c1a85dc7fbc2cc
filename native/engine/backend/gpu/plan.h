// A forward pass as asked for, and how much of it becomes one dispatch. Steps are the calls of
// backend.h in order; the planner walks them once, looks at what takes in each value, and picks the
// longest fusion that the kernels of metal/README.md offer. There is no graph: a fusion is a run of
// neighbouring steps, and a value may be left out only where the next step is all that reads it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "backend/gpu/encoder.h"

namespace subbit {

struct GpuStep {
  enum class Kind { kEmbed, kRmsNorm, kLinear, kLinearAdd, kRope, kAttention, kSwiglu, kArgmax };
  Kind kind = Kind::kEmbed;
  Tensor in;   // x, gate, q, logits
  Tensor in2;  // up, k
  Tensor in3;  // v
  Tensor out;  // rope: the same as `in`
  const Weight* table = nullptr;
  GpuSlice tokens;
  const Linear* linear = nullptr;
  GpuNorm norm;
  const RopeTable* rope = nullptr;
  int64_t first_position = 0;
  int64_t heads = 0;
  AttentionShape shape;
  KvLayer kv;
};

/// Whether steps that are not known yet may read what these leave.
enum class Rest { kNone, kFollows };

class GpuPlanner {
 public:
  explicit GpuPlanner(GpuEncoder& encoder) : encoder_(encoder) {}

  /// Encodes all steps; nothing is remembered afterwards. Throws kUnsupportedFormat.
  void encode(std::span<const GpuStep> steps, Rest rest);

 private:
  using Steps = std::span<const GpuStep>;

  /// Encodes the steps at the front of `left` and returns how many.
  size_t take(Steps left);
  size_t take_norm(Steps left);
  size_t take_linear(Steps left);
  size_t take_attention(Steps left, bool appended);
  size_t take_swiglu(Steps left);
  /// The one weight of a step's linear whose ends can be fused; null where there is none.
  const GpuWeight* fusable(const GpuStep& step);
  /// The step after the first takes codes of `value`, and nothing else reads it.
  bool next_takes_codes(Steps left, size_t next, const Tensor& value);
  std::optional<size_t> fuse_qkv(Steps left, const GpuWeight& w, const GpuCodes& x);
  std::optional<size_t> fuse_rope_append(Steps left);
  std::optional<size_t> fuse_swiglu(Steps left, const GpuWeight& w, const GpuCodes& x);
  GpuCodes codes_of(const Tensor& x);
  void forget(const Tensor& overwritten);
  /// Nothing after the first `taken` steps reads `value` before it is written anew.
  bool dead_after(Steps left, size_t taken, Tensor value) const;
  void multiply_parts(const Linear& linear, Tensor x, Tensor y, OutputMode mode);

  GpuEncoder& encoder_;
  Rest rest_ = Rest::kNone;
  // What scratch holds the codes of, if it is a value still alive.
  std::optional<GpuCodes> codes_;
  Tensor coded_;
};

}  // namespace subbit
