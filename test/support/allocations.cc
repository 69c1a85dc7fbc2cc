// Replaces the global operators. The engine's own reservations and mappings go through mmap, which
// is replaced too on Linux: the loader prefers the program's symbol to the library's.
#include "support/allocations.h"

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <new>

#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__)
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace subbit::test {
namespace {

std::atomic<int64_t> countdown{0};
std::atomic<bool> failed{false};
std::atomic<int64_t> live{0};

/// Counts an allocation.
bool fails_now() {
  if (countdown.load(std::memory_order_relaxed) == 0) return false;
  if (countdown.fetch_sub(1) != 1) return false;
  failed = true;
  return true;
}

void* allocate(std::size_t bytes, std::size_t alignment) {
  if (fails_now()) throw std::bad_alloc();
  const std::size_t size = (bytes + alignment - 1) / alignment * alignment;
  void* block = alignment <= alignof(std::max_align_t) ? std::malloc(bytes == 0 ? 1 : bytes)
                                                       : std::aligned_alloc(alignment, size);
  if (block == nullptr) throw std::bad_alloc();
  ++live;
  return block;
}

void release(void* block) {
  if (block == nullptr) return;
  --live;
  std::free(block);
}

}  // namespace

void fail_allocation(int64_t nth) {
  failed = false;
  countdown = nth;
}

bool allocation_failed() { return failed; }

int64_t live_blocks() { return live; }

}  // namespace subbit::test

void* operator new(std::size_t bytes) {
  return subbit::test::allocate(bytes, alignof(std::max_align_t));
}
void* operator new[](std::size_t bytes) {
  return subbit::test::allocate(bytes, alignof(std::max_align_t));
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return subbit::test::allocate(bytes, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment) {
  return subbit::test::allocate(bytes, static_cast<std::size_t>(alignment));
}
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  try {
    return subbit::test::allocate(bytes, alignof(std::max_align_t));
  } catch (...) {
    return nullptr;
  }
}
void operator delete(void* block) noexcept { subbit::test::release(block); }
void operator delete[](void* block) noexcept { subbit::test::release(block); }
void operator delete(void* block, std::size_t) noexcept { subbit::test::release(block); }
void operator delete[](void* block, std::size_t) noexcept { subbit::test::release(block); }
void operator delete(void* block, std::align_val_t) noexcept { subbit::test::release(block); }
void operator delete[](void* block, std::align_val_t) noexcept { subbit::test::release(block); }
void operator delete(void* block, std::size_t, std::align_val_t) noexcept {
  subbit::test::release(block);
}
void operator delete[](void* block, std::size_t, std::align_val_t) noexcept {
  subbit::test::release(block);
}
void operator delete(void* block, const std::nothrow_t&) noexcept { subbit::test::release(block); }

#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__)
extern "C" void* mmap(void* address, size_t bytes, int protection, int flags, int file,
                      off_t offset) noexcept {
  if (subbit::test::fails_now()) {
    errno = ENOMEM;
    return MAP_FAILED;
  }
  const long result = syscall(SYS_mmap, address, bytes, protection, flags, file, offset);
  return reinterpret_cast<void*>(result);
}
#endif
