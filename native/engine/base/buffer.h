// Buffer: an array aligned to a cache line, uninitialised unless asked. The one way the engine
// holds large private memory, so that a memory plan has one place to look.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>
#include <type_traits>

namespace subbit {

inline constexpr size_t kCacheLine = 128;  // Apple silicon's; a multiple of everyone else's

template <typename T>
class Buffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  Buffer() = default;
  /// Uninitialised. Throws std::bad_alloc.
  explicit Buffer(int64_t count)
      : data_(static_cast<T*>(::operator new(bytes_for(count), std::align_val_t{kCacheLine}))),
        size_(count) {}
  Buffer(int64_t count, T value) : Buffer(count) { std::fill_n(data_.get(), count, value); }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  int64_t size() const { return size_; }
  T& operator[](int64_t i) { return data_.get()[i]; }
  const T& operator[](int64_t i) const { return data_.get()[i]; }
  std::span<T> span() { return {data_.get(), static_cast<size_t>(size_)}; }
  std::span<const T> span() const { return {data_.get(), static_cast<size_t>(size_)}; }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete(p, std::align_val_t{kCacheLine}); }
  };
  static size_t bytes_for(int64_t count) {
    if (count < 0 || static_cast<uint64_t>(count) > SIZE_MAX / 2 / sizeof(T))
      throw std::bad_alloc();
    return std::max<size_t>(static_cast<size_t>(count) * sizeof(T), 1);
  }
  std::unique_ptr<T, Free> data_;
  int64_t size_ = 0;
};

/// Memory for at least `count`; what it held is lost when it has to grow.
template <typename T>
T* reserve(Buffer<T>& buffer, int64_t count) {
  if (buffer.size() < count) buffer = Buffer<T>(count);
  return buffer.data();
}

}  // namespace subbit
