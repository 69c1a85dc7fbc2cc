// Guarded mappings.
#include "support/metal_on_cpu/exact_buffer.h"

#include <new>
#include <sys/mman.h>
#include <unistd.h>
#include <utility>

namespace subbit::metal_on_cpu {

ExactBytes::ExactBytes(size_t bytes) : size_(bytes) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t body = (bytes + page - 1) / page * page;
  mapped_ = body + 2 * page;
  void* const mapping =
      mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) throw std::bad_alloc();
  mapping_ = static_cast<std::byte*>(mapping);
  data_ = mapping_ + page + body - bytes;
  std::memset(data_, 0xFF, bytes);
  if (mprotect(mapping_, page, PROT_NONE) != 0 ||
      mprotect(mapping_ + page + body, page, PROT_NONE) != 0) {
    throw std::bad_alloc();
  }
}

ExactBytes::~ExactBytes() {
  if (mapping_ != nullptr) munmap(mapping_, mapped_);
}

ExactBytes::ExactBytes(ExactBytes&& other) noexcept
    : mapping_(std::exchange(other.mapping_, nullptr)),
      mapped_(other.mapped_),
      data_(other.data_),
      size_(other.size_) {}

}  // namespace subbit::metal_on_cpu
