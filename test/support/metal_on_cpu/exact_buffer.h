// Memory for kernels' buffers that ends where it ends: the byte after the last is on a page nobody
// may touch, and so is the page before the first's. A kernel that reads one element too many dies
// there, with or without AddressSanitizer.
#pragma once

#include <cstddef>
#include <cstring>
#include <span>
#include <vector>

#include "support/metal_on_cpu/metal_on_cpu.h"

namespace subbit::metal_on_cpu {

class ExactBytes {
 public:
  explicit ExactBytes(size_t bytes);
  ~ExactBytes();
  ExactBytes(ExactBytes&& other) noexcept;
  ExactBytes(const ExactBytes&) = delete;
  ExactBytes& operator=(const ExactBytes&) = delete;

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  std::byte* mapping_ = nullptr;
  size_t mapped_ = 0;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

/// An array of T in ExactBytes, poisoned like threadgroup memory until something is written.
template <typename T>
class ExactBuffer {
 public:
  explicit ExactBuffer(size_t count) : bytes_(count * sizeof(T)) {}
  explicit ExactBuffer(std::span<const T> values) : ExactBuffer(values.size()) {
    if (!values.empty()) std::memcpy(bytes_.data(), values.data(), bytes_.size());
  }
  explicit ExactBuffer(const std::vector<T>& values)
      : ExactBuffer(std::span<const T>(values.data(), values.size())) {}
  ExactBuffer(size_t count, T value) : ExactBuffer(count) {
    for (size_t i = 0; i < count; ++i) data()[i] = value;
  }

  T* data() const { return reinterpret_cast<T*>(bytes_.data()); }
  size_t size() const { return bytes_.size() / sizeof(T); }
  T& operator[](size_t i) const { return data()[i]; }
  Binding binding() const { return {bytes_.data(), bytes_.size()}; }
  std::vector<T> values() const { return {data(), data() + size()}; }

 private:
  ExactBytes bytes_;
};

/// The bytes of an argument struct, as setBytes binds them.
template <typename T>
Binding bytes_of(T& arguments) {
  return {&arguments, sizeof(T)};
}

}  // namespace subbit::metal_on_cpu
