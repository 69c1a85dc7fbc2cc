// The map of shared regions and copied constants.
#include "backend/gpu/memory_map.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace subbit {
namespace {

constexpr uint64_t kKernelAlignment = 16;
constexpr uint64_t kBlockBytes = uint64_t{1} << 20;

uint64_t round_up(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

bool holds(std::span<const std::byte> whole, const std::byte* begin, uint64_t bytes) {
  return begin >= whole.data() && begin + bytes <= whole.data() + whole.size();
}

}  // namespace

void GpuMemoryMap::share(std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  const uint64_t page = device_.facts().page_bytes;
  const auto address = reinterpret_cast<uintptr_t>(bytes.data());
  const uint64_t before = address % page;
  const uint64_t total = round_up(before + bytes.size(), page);
  // Kernels only read what lies in files; Metal has no type that says so.
  auto* begin = const_cast<std::byte*>(bytes.data()) - before;
  const uint64_t window = std::min(total, device_.facts().max_buffer_bytes / (2 * page) * 2 * page);
  CHECK(window > 0);
  for (uint64_t at = 0;; at += window / 2) {
    const uint64_t length = std::min(window, total - at);
    regions_.push_back({bytes, device_.map({begin + at, length})});
    if (at + length == total) break;
  }
}

void GpuMemoryMap::unshare(std::span<const std::byte> bytes) {
  std::erase_if(regions_, [&](const Region& region) {
    return region.bytes.data() == bytes.data() && region.bytes.size() == bytes.size();
  });
}

GpuSlice GpuMemoryMap::find(const void* begin, uint64_t bytes) const {
  const auto* first = static_cast<const std::byte*>(begin);
  for (const Region& region : regions_) {
    // Only what was shared counts: its neighbours in a page may outlive the region.
    const std::span<std::byte> host = region.memory->bytes();
    if (!holds(region.bytes, first, bytes) || !holds(host, first, bytes)) continue;
    return {region.memory.get(), static_cast<uint64_t>(first - host.data()), bytes};
  }
  return {};
}

GpuSlice GpuMemoryMap::shared(const void* begin, uint64_t bytes) const {
  const GpuSlice slice = find(begin, bytes);
  CHECK(slice.memory != nullptr);
  return slice;
}

GpuSlice GpuMemoryMap::constant(const void* begin, uint64_t bytes) {
  if (const GpuSlice slice = find(begin, bytes);
      slice.memory != nullptr && slice.offset % kKernelAlignment == 0) {
    return slice;
  }
  const auto known = copies_.find(begin);
  if (known != copies_.end() && known->second.bytes >= bytes) {
    return {known->second.slice.memory, known->second.slice.offset, bytes};
  }
  const uint64_t length = round_up(bytes, kKernelAlignment);
  if (blocks_.empty() || block_used_ + length > blocks_.back()->bytes().size()) {
    blocks_.push_back(device_.allocate(std::max(kBlockBytes, length)));
    block_used_ = 0;
  }
  const GpuSlice slice = {blocks_.back().get(), block_used_, bytes};
  std::memcpy(slice.memory->bytes().data() + slice.offset, begin, bytes);
  block_used_ += length;
  copied_bytes_ += length;
  copies_[begin] = {bytes, slice};
  return slice;
}

uint64_t GpuMemoryMap::mapped_bytes() const {
  uint64_t bytes = 0;
  for (const Region& region : regions_) bytes += region.memory->bytes().size();
  return bytes;
}

}  // namespace subbit
