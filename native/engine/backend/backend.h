// The operations a model may ask for. A forward pass is straight-line code that calls these in
// order; a back end computes them now (cpu), encodes them (gpu) or records them (tape).
//
// In-place use is part of the contract: an operation reads its inputs before it writes its output,
// and overwriting a tensor kills the value it held.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/half.h"
#include "base/matrix.h"
#include "formats/format.h"

namespace subbit {

/// Activations, row-major [rows, cols], in memory the host can address (unified memory on Macs).
/// Row t truly holds row_scale[t] * data[t] when row_scale is set (see LinearInput).
struct Tensor {
  float* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;
  float* row_scale = nullptr;

  Matrix matrix() const { return {data, rows, cols, stride}; }
  Tensor columns(int64_t first, int64_t count) const {
    return {data + first, rows, count, stride, row_scale};
  }
  Tensor rows_from(int64_t first, int64_t count) const {
    return {data + first * stride, count, cols, stride,
            row_scale == nullptr ? nullptr : row_scale + first};
  }
};

/// A linear layer: one or more weights stacked by rows, each with an optional bias of its own.
struct Linear {
  struct Part {
    std::shared_ptr<const Weight> weight;  // shared by a tied embedding and head
    std::vector<float> bias;               // [rows], or empty
  };
  std::string name;
  std::vector<Part> parts;
  Shape shape;  // of the stack
};

struct AttentionShape {
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
};

enum class KvType { kF32, kF16, kI8 };

/// Bytes of one head's keys, or values, at one position. kI8: a signed code a column, zeros up to a
/// multiple of four, then the float that codes are multiplied by: a position is one run of bytes,
/// whatever its type.
constexpr int64_t kv_row_bytes(KvType type, int64_t head_dim) {
  if (type == KvType::kI8) return (head_dim + 3) / 4 * 4 + 4;
  return (type == KvType::kF32 ? 4 : 2) * head_dim;
}

/// One layer's keys and values: [kv_heads, capacity] rows each, of `type`. A view.
struct KvLayer {
  KvType type = KvType::kF16;
  void* keys = nullptr;
  void* values = nullptr;
  int64_t capacity = 0;
};

/// Rotary angles: cosine and sine, [positions, head_dim / 2] each, rows by absolute position.
struct RopeTable {
  std::vector<float> cosine;
  std::vector<float> sine;
  int64_t half_dim = 0;
  int64_t positions = 0;
};

/// The largest calls a back end will be asked for: what it plans its own scratch by.
struct BackendWork {
  int64_t tokens = 0;         // of one call
  int64_t widest_input = 0;   // columns of any linear
  int64_t widest_output = 0;  // rows of any linear that is added to the residual stream
  int threads = 1;
  // What a GPU's depends on besides.
  int64_t widest_codes = 0;  // columns or rank of any linear
  int64_t term_sums = 0;     // rows times terms of any linear; 0: each has one term
  int64_t heads = 0;
  int64_t head_dim = 0;
  uint64_t constant_bytes = 0;  // norms, scales, biases and rotary angles, and what lies askew
};

/// Bytes of scratch a back end keeps for such work, apart from what weights take for themselves.
using BackendScratch = uint64_t (*)(const BackendWork& work);

class Backend {
 public:
  virtual ~Backend() = default;

  /// h[t] = table[tokens[t]]. Token ids have been checked against the table's rows.
  virtual void embed(const Weight& table, std::span<const int32_t> tokens, Tensor h) = 0;
  /// out = x * weight, out.row_scale = 1 / sqrt(mean(x^2) + eps). `out.row_scale` must be set.
  virtual void rms_norm(Tensor x, std::span<const float> weight, float eps, Tensor out) = 0;
  /// y = W x + bias.
  virtual void linear(const Linear& linear, Tensor x, Tensor y) = 0;
  /// y = y + (W x + bias): the residual stream.
  virtual void linear_add(const Linear& linear, Tensor x, Tensor y) = 0;
  /// Rotates each head of `x` [tokens, heads * head_dim] in place, pairs (i, i + head_dim / 2),
  /// token t at position first_position + t.
  virtual void rope(const RopeTable& table, int64_t first_position, int64_t heads, Tensor x) = 0;
  /// Appends k, v [tokens, kv_heads * head_dim] at `first_position`, then causal attention of q
  /// [tokens, heads * head_dim] over positions 0..first_position + t, scaled by
  /// 1 / sqrt(head_dim), into out (like q).
  virtual void attention(const AttentionShape& shape, Tensor q, Tensor k, Tensor v,
                         const KvLayer& kv, int64_t first_position, Tensor out) = 0;
  /// out = silu(gate) * up.
  virtual void swiglu(Tensor gate, Tensor up, Tensor out) = 0;
  /// `index` = the largest of a row of logits, the first of equals, once finish() has returned.
  /// Throws kNonFinite, then or now, where a logit is not a finite number.
  virtual void argmax(Tensor logits, int32_t& index) = 0;
  /// Returns when the host can read the values asked for so far. A value that a later operation has
  /// already taken in may be missing: back ends that fuse leave it out.
  virtual void finish() = 0;
  /// Forgets what was asked for since the last finish(): the pass was given up.
  virtual void discard() {}

  /// Memory that tensors and weights of later calls lie in, from one page's begin to another's end:
  /// a back end with an address space of its own maps it. It stays in place until `unshare`.
  virtual void share(std::span<const std::byte> /*pages*/) {}
  virtual void unshare(std::span<const std::byte> /*pages*/) {}
};

/// Hands every operation to another back end. Those that watch or reshape some of the operations
/// derive from it and override these.
class ForwardingBackend : public Backend {
 public:
  void embed(const Weight& table, std::span<const int32_t> tokens, Tensor h) override {
    inner_.embed(table, tokens, h);
  }
  void rms_norm(Tensor x, std::span<const float> weight, float eps, Tensor out) override {
    inner_.rms_norm(x, weight, eps, out);
  }
  void linear(const Linear& linear, Tensor x, Tensor y) override { inner_.linear(linear, x, y); }
  void linear_add(const Linear& linear, Tensor x, Tensor y) override {
    inner_.linear_add(linear, x, y);
  }
  void rope(const RopeTable& table, int64_t first_position, int64_t heads, Tensor x) override {
    inner_.rope(table, first_position, heads, x);
  }
  void attention(const AttentionShape& shape, Tensor q, Tensor k, Tensor v, const KvLayer& kv,
                 int64_t first_position, Tensor out) override {
    inner_.attention(shape, q, k, v, kv, first_position, out);
  }
  void swiglu(Tensor gate, Tensor up, Tensor out) override { inner_.swiglu(gate, up, out); }
  void argmax(Tensor logits, int32_t& index) override { inner_.argmax(logits, index); }
  void finish() override { inner_.finish(); }
  void discard() override { inner_.discard(); }
  void share(std::span<const std::byte> pages) override { inner_.share(pages); }
  void unshare(std::span<const std::byte> pages) override { inner_.unshare(pages); }

 protected:
  explicit ForwardingBackend(Backend& inner) : inner_(inner) {}

  Backend& inner_;
};

}  // namespace subbit
