// Arena: memory of a planned size for what a forward pass computes with. Inside an ArenaScope every
// Buffer comes from the arena and goes back to it, with no change to the code that makes Buffers;
// so kernels keep their local scratch and the whole of it has one bound. Past the plan an arena
// goes on serving, and says so: a plan that is too small is a failed test, never a failed user.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/reserved_memory.h"

namespace subbit {

class Arena {
 public:
  /// Address space for twice `planned` bytes; pages become memory when touched.
  explicit Arena(uint64_t planned);
  /// With blocks still out the memory is never unmapped: a leak is better than a stray pointer.
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// A block aligned to a cache line, as low as one fits; null when none does.
  void* take(size_t bytes) noexcept;
  void give(void* block, size_t bytes) noexcept;

  uint64_t planned() const { return planned_; }
  /// The highest byte ever handed out: what was touched, fragmentation included.
  uint64_t extent() const { return extent_.load(std::memory_order_relaxed); }
  uint64_t in_use() const { return in_use_; }
  /// Bytes that had to come from the heap because even the reserve was full.
  uint64_t overflow() const { return overflow_.load(std::memory_order_relaxed); }
  void count_overflow(size_t bytes) noexcept { overflow_ += bytes; }

  /// Gives the pages of free blocks back. Returns their bytes, touched or not.
  uint64_t trim();

 private:
  /// [begin, end) of the free runs, in order. A forward pass has a few dozen blocks out at most, so
  /// a list that is searched from the start is as fast as anything.
  struct Run {
    uint64_t begin = 0;
    uint64_t end = 0;
  };

  uint64_t planned_;
  ReservedMemory memory_;
  std::vector<Run> free_;
  std::atomic<uint64_t> extent_{0};  // these two are read while a pass runs
  std::atomic<uint64_t> overflow_{0};
  uint64_t in_use_ = 0;
};

/// While one lives, this thread's Buffers are made in `arena`; null: on the heap again, for what
/// must outlive the arena. Nests.
class ArenaScope {
 public:
  explicit ArenaScope(Arena* arena);
  ~ArenaScope();
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena* before_;
};

/// The memory behind a Buffer, and where it came from: null is the heap.
struct BufferMemory {
  void* data = nullptr;
  Arena* arena = nullptr;
};

/// Aligned to a cache line. Throws std::bad_alloc.
BufferMemory take_buffer_memory(size_t bytes);
void give_buffer_memory(BufferMemory memory, size_t bytes) noexcept;

}  // namespace subbit
