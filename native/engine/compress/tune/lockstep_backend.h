// A back end for many sequences that grow in step: every row of a tensor is another sequence's next
// token. Only rope and attention can tell; all else is handed on, so that a product over 64
// sequences costs little more than one over a single token.
#pragma once

#include <cstdint>

#include "backend/backend.h"

namespace subbit {

class LockstepBackend final : public ForwardingBackend {
 public:
  explicit LockstepBackend(Backend& inner) : ForwardingBackend(inner) {}

  void rope(const RopeTable& table, int64_t first_position, int64_t heads, Tensor x) override;
  /// `kv` is the first sequence's; the others' float32 caches follow it, keys and values each
  /// kv_heads * capacity * head_dim apart.
  void attention(const AttentionShape& shape, Tensor q, Tensor k, Tensor v, const KvLayer& kv,
                 int64_t first_position, Tensor out) override;
};

}  // namespace subbit
