// A back end for many sequences that grow in step: every row of a tensor is another sequence's next
// token. Only rope and attention can tell; all else is handed on, so that a product over 64
// sequences costs little more than one over a single token.
#pragma once

#include <cstdint>
#include <span>

#include "backend/backend.h"

namespace subbit {

class LockstepBackend final : public Backend {
 public:
  explicit LockstepBackend(Backend& inner) : inner_(inner) {}

  void embed(const Weight& table, std::span<const int32_t> tokens, Tensor h) override;
  void rms_norm(Tensor x, std::span<const float> weight, float eps, Tensor out) override;
  void linear(const Linear& linear, Tensor x, Tensor y) override;
  void linear_add(const Linear& linear, Tensor x, Tensor y) override;
  void rope(const RopeTable& table, int64_t first_position, int64_t heads, Tensor x) override;
  /// `kv` is the first sequence's; the others' float32 caches follow it, keys and values each
  /// kv_heads * capacity * head_dim apart.
  void attention(const AttentionShape& shape, Tensor q, Tensor k, Tensor v, const KvLayer& kv,
                 int64_t first_position, Tensor out) override;
  void swiglu(Tensor gate, Tensor up, Tensor out) override;
  void finish() override { inner_.finish(); }

 private:
  Backend& inner_;
};

}  // namespace subbit
