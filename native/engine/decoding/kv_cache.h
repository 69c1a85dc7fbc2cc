// The keys and values of one sequence, for all layers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/backend.h"
#include "base/buffer.h"
#include "memory/plan_memory.h"
#include "models/model.h"

namespace subbit {

class KvCache {
 public:
  /// Allocates what plan_memory says. The pages are touched only as positions fill.
  KvCache(const ModelConfig& config, const MemoryOptions& options);

  KvLayer layer(int64_t index);
  uint64_t bytes() const { return static_cast<uint64_t>(storage_.size()); }
  /// Writes every byte of a layer so that its keys and values are some small finite numbers.
  void fill(int64_t index);

 private:
  uint64_t side_bytes_;
  KvType type_;
  int64_t capacity_;
  Buffer<std::byte> storage_;  // per layer: keys, then values
};

}  // namespace subbit
