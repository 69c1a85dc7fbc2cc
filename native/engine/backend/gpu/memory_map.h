// Where things lie in the device's memory: from a host pointer to a buffer and an offset. What was
// shared is found in place; small constants that live elsewhere (norms, rotary angles, biases) and
// weights that lie askew are copied once.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "backend/gpu/device.h"

namespace subbit {

class GpuMemoryMap {
 public:
  explicit GpuMemoryMap(GpuDevice& device) : device_(device) {}

  /// Rounded out to whole pages, and cut into overlapping windows where a buffer cannot hold it:
  /// each window reaches half a window into the next, so that what is no longer than half a window
  /// lies in one of them whole.
  void share(std::span<const std::byte> bytes);
  /// Of exactly what was shared.
  void unshare(std::span<const std::byte> bytes);

  /// Of shared memory that the device writes as well. CHECKs that it was shared.
  GpuSlice shared(const void* begin, uint64_t bytes) const;
  /// Of memory whose values never change: in place if it was shared and is aligned as kernels need
  /// it (16 bytes), else a copy, made the first time.
  GpuSlice constant(const void* begin, uint64_t bytes);
  template <typename T>
  GpuSlice constant(std::span<const T> values) {
    return constant(values.data(), values.size_bytes());
  }

  uint64_t mapped_bytes() const;
  uint64_t copied_bytes() const { return copied_bytes_; }

 private:
  struct Region {
    std::span<const std::byte> bytes;
    std::unique_ptr<GpuMemory> memory;
  };
  struct Copy {
    uint64_t bytes = 0;
    GpuSlice slice;
  };

  GpuSlice find(const void* begin, uint64_t bytes) const;

  GpuDevice& device_;
  std::vector<Region> regions_;
  std::unordered_map<const void*, Copy> copies_;
  std::vector<std::unique_ptr<GpuMemory>> blocks_;  // of copies
  uint64_t block_used_ = 0;
  uint64_t copied_bytes_ = 0;
};

}  // namespace subbit
