// Layout of the KV cache: layers one after another, each its keys, then its values.
#include "decoding/kv_cache.h"

#include <cstring>

namespace subbit {

KvCache::KvCache(const ModelConfig& config, const MemoryOptions& options)
    : side_bytes_(kv_side_bytes(config, options)),
      type_(options.kv_cache),
      capacity_(options.context_length),
      storage_(static_cast<int64_t>(2 * side_bytes_) * config.num_hidden_layers) {}

KvLayer KvCache::layer(int64_t index) {
  std::byte* keys = storage_.data() + 2 * side_bytes_ * static_cast<uint64_t>(index);
  return {type_, keys, keys + side_bytes_, capacity_};
}

void KvCache::fill(int64_t index) {
  // As a half 0.065, as a float 2e-12, as an integer 44: in no format a zero page, which a system
  // could leave out, nor a denormal, which would be slow.
  constexpr int kByte = 0x2C;
  std::memset(layer(index).keys, kByte, 2 * side_bytes_);
}

}  // namespace subbit
