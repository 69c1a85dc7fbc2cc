// The keys and values of one sequence, for all layers. The cache grows by pages as positions fill,
// and can shrink again: a long context costs memory only once it is used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "backend/backend.h"
#include "base/reserved_memory.h"
#include "memory/plan_memory.h"
#include "models/model.h"

namespace subbit {

class KvCache {
 public:
  /// Reserves what plan_memory says. The pages are touched only as positions fill.
  KvCache(const ModelConfig& config, const MemoryOptions& options);

  KvLayer layer(int64_t index);
  uint64_t bytes() const { return static_cast<uint64_t>(storage_.size()); }
  std::span<const std::byte> memory() const { return {storage_.data(), storage_.size()}; }
  /// Writes every byte of a layer so that its keys and values are some small finite numbers.
  void fill(int64_t index);
  /// Bytes of the first `positions` of all layers.
  uint64_t bytes_of(int64_t positions) const;
  /// Gives back the pages that hold no position below `positions`. Returns their bytes.
  uint64_t trim(int64_t positions);

 private:
  int64_t layers_;
  int64_t heads_;
  uint64_t side_bytes_;
  KvType type_;
  int64_t capacity_;
  ReservedMemory storage_;  // per layer: keys, then values
};

}  // namespace subbit
