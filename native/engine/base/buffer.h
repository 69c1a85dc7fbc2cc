// Buffer: an array aligned to a cache line, uninitialised unless asked. The one way the engine
// holds large private memory, so that a memory plan has one place to look: inside an ArenaScope
// (base/arena.h) it comes from the arena, elsewhere from the heap.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>
#include <span>
#include <type_traits>
#include <utility>

#include "base/arena.h"

namespace subbit {

inline constexpr size_t kCacheLine = 128;  // Apple silicon's; a multiple of everyone else's

template <typename T>
class Buffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  Buffer() = default;
  /// Uninitialised. Throws std::bad_alloc.
  explicit Buffer(int64_t count) : memory_(take_buffer_memory(bytes_for(count))), size_(count) {}
  Buffer(int64_t count, T value) : Buffer(count) { std::fill_n(data(), count, value); }
  ~Buffer() {
    if (memory_.data != nullptr) give_buffer_memory(memory_, bytes_for(size_));
  }
  Buffer(Buffer&& other) noexcept
      : memory_(std::exchange(other.memory_, {})), size_(std::exchange(other.size_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    Buffer taken(std::move(other));
    std::swap(memory_, taken.memory_);
    std::swap(size_, taken.size_);
    return *this;
  }

  T* data() { return static_cast<T*>(memory_.data); }
  const T* data() const { return static_cast<const T*>(memory_.data); }
  int64_t size() const { return size_; }
  T& operator[](int64_t i) { return data()[i]; }
  const T& operator[](int64_t i) const { return data()[i]; }
  std::span<T> span() { return {data(), static_cast<size_t>(size_)}; }
  std::span<const T> span() const { return {data(), static_cast<size_t>(size_)}; }

 private:
  static size_t bytes_for(int64_t count) {
    if (count < 0 || static_cast<uint64_t>(count) > SIZE_MAX / 2 / sizeof(T))
      throw std::bad_alloc();
    return std::max<size_t>(static_cast<size_t>(count) * sizeof(T), 1);
  }
  BufferMemory memory_;
  int64_t size_ = 0;
};

/// Memory for at least `count`; what it held is lost when it has to grow.
template <typename T>
T* reserve(Buffer<T>& buffer, int64_t count) {
  if (buffer.size() >= count) return buffer.data();
  buffer = Buffer<T>();  // first: what grows need not be held twice
  buffer = Buffer<T>(count);
  return buffer.data();
}

}  // namespace subbit
