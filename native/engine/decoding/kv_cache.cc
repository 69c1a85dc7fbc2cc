// Layout of the KV cache: layers one after another, each its keys, then its values; in each of
// these, one run of positions per KV head.
#include "decoding/kv_cache.h"

#include <cstring>

namespace subbit {

KvCache::KvCache(const ModelConfig& config, const MemoryOptions& options)
    : layers_(config.num_hidden_layers),
      heads_(config.num_key_value_heads),
      side_bytes_(kv_side_bytes(config, options)),
      type_(options.kv_cache),
      capacity_(options.context_length),
      storage_(2 * side_bytes_ * static_cast<uint64_t>(layers_)) {}

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

uint64_t KvCache::bytes_of(int64_t positions) const {
  return storage_.size() / static_cast<uint64_t>(capacity_) * static_cast<uint64_t>(positions);
}

uint64_t KvCache::trim(int64_t positions) {
  const auto runs = static_cast<uint64_t>(2 * layers_ * heads_);
  const uint64_t run = storage_.size() / runs;
  const uint64_t kept = run / static_cast<uint64_t>(capacity_) * static_cast<uint64_t>(positions);
  if (kept == 0) return storage_.discard(0, storage_.size());
  uint64_t bytes = 0;
  for (uint64_t r = 0; r < runs; ++r) bytes += storage_.discard(r * run + kept, (r + 1) * run);
  return bytes;
}

}  // namespace subbit
