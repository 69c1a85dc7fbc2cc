// ReservedMemory: address space of a fixed size, asked of the system directly. A page becomes
// memory when it is first touched and can be given back without moving anything: what lets a cache
// grow lazily and a plan be compared with what a process really holds.
#pragma once

#include <cstddef>
#include <cstdint>

namespace subbit {

class ReservedMemory {
 public:
  ReservedMemory() = default;
  /// Zeros, none of them touched. Throws std::bad_alloc.
  explicit ReservedMemory(uint64_t bytes);
  ~ReservedMemory();
  ReservedMemory(ReservedMemory&& other) noexcept;
  ReservedMemory& operator=(ReservedMemory&& other) noexcept;

  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  uint64_t size() const { return size_; }

  /// Gives back the whole pages inside [begin, end), whose contents are lost: they read as zeros
  /// when touched again. Returns their bytes, touched or not.
  uint64_t discard(uint64_t begin, uint64_t end);
  /// From the first whole page behind `begin` on, touching it is a fault from now on.
  void forbid(uint64_t begin);

 private:
  std::byte* data_ = nullptr;
  uint64_t size_ = 0;
};

/// The system's page: 4 KiB on most machines, 16 KiB on Apple silicon.
uint64_t page_bytes();

}  // namespace subbit
