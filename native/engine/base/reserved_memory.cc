// Anonymous private mappings. MAP_NORESERVE: a cache for a long context must not count against the
// system's commit limit before it is used; the plan, not the kernel, decides what fits.
#include "base/reserved_memory.h"

#include <algorithm>
#include <new>
#include <sys/mman.h>
#include <unistd.h>
#include <utility>

#if !defined(MAP_NORESERVE)
#define MAP_NORESERVE 0
#endif

namespace subbit {

uint64_t page_bytes() {
  static const long bytes = sysconf(_SC_PAGESIZE);
  return bytes > 0 ? static_cast<uint64_t>(bytes) : 4096;
}

ReservedMemory::ReservedMemory(uint64_t bytes) {
  if (bytes == 0) return;
  if (bytes > SIZE_MAX / 2) throw std::bad_alloc();
  void* address = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (address == MAP_FAILED) throw std::bad_alloc();
  data_ = static_cast<std::byte*>(address);
  size_ = bytes;
#if defined(MADV_NOHUGEPAGE)
  // A huge page would make two megabytes of every one touched: growth must follow use.
  madvise(address, static_cast<size_t>(bytes), MADV_NOHUGEPAGE);
#endif
}

ReservedMemory::~ReservedMemory() {
  if (data_ != nullptr) munmap(data_, static_cast<size_t>(size_));
}

ReservedMemory::ReservedMemory(ReservedMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

ReservedMemory& ReservedMemory::operator=(ReservedMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

void ReservedMemory::forbid(uint64_t begin) {
  const uint64_t page = page_bytes();
  begin = (begin + page - 1) / page * page;
  if (begin < size_) mprotect(data_ + begin, static_cast<size_t>(size_ - begin), PROT_NONE);
}

uint64_t ReservedMemory::discard(uint64_t begin, uint64_t end) {
  const uint64_t page = page_bytes();
  begin = (begin + page - 1) / page * page;
  end = std::min(end, size_) / page * page;
  if (data_ == nullptr || begin >= end) return 0;
  std::byte* from = data_ + begin;
  const auto bytes = static_cast<size_t>(end - begin);
#if defined(__APPLE__)
  // MADV_DONTNEED keeps pages accounted to the process on macOS; a fresh mapping in place does not.
  void* again = mmap(from, bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  return again == MAP_FAILED ? 0 : end - begin;
#else
  return madvise(from, bytes, MADV_DONTNEED) == 0 ? end - begin : 0;
#endif
}

}  // namespace subbit
