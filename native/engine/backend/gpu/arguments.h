// The host's numbers as the shaders' argument structs (metal/*.h) hold them.
#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "backend/gpu/memory_map.h"

namespace subbit {

inline uint32_t u32(int64_t value) { return static_cast<uint32_t>(value); }

/// How many groups of `each` hold `count`.
inline uint32_t groups_of(int64_t count, uint32_t each) { return (u32(count) + each - 1) / each; }

/// Where keys and values of a call lie: what every struct of a kernel that reads or writes the
/// cache names alike.
template <typename Arguments>
void set_cache(Arguments& args, const AttentionShape& shape, const KvLayer& kv,
               int64_t first_position) {
  args.kv_heads = u32(shape.kv_heads);
  args.head_dim = u32(shape.head_dim);
  args.capacity = u32(kv.capacity);
  args.first_position = u32(first_position);
}

/// One layer's keys and values in the device's memory.
struct GpuCache {
  GpuSlice keys;
  GpuSlice values;

  GpuCache(const GpuMemoryMap& map, const AttentionShape& shape, const KvLayer& kv) {
    const auto bytes =
        static_cast<uint64_t>(shape.kv_heads * kv.capacity * kv_row_bytes(kv.type, shape.head_dim));
    keys = map.shared(kv.keys, bytes);
    values = map.shared(kv.values, bytes);
  }
};

}  // namespace subbit
