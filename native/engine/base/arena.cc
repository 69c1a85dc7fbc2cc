// First fit over a list of free runs, which is reserved when the arena is made: taking and giving
// blocks never allocates.
#include "base/arena.h"

#include <algorithm>
#include <new>

#include "base/buffer.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#include <sanitizer/asan_interface.h>
#endif
#endif

namespace subbit {
namespace {

constexpr size_t kMostRuns = 4096;

thread_local Arena* current_arena = nullptr;

#if defined(__SANITIZE_ADDRESS__)
// What is free is poisoned, and a cache line lies between blocks: an arena hides no stray access.
constexpr size_t kRedZone = kCacheLine;
void open_block(void* block, size_t bytes) { ASAN_UNPOISON_MEMORY_REGION(block, bytes); }
void close_block(void* block, size_t bytes) { ASAN_POISON_MEMORY_REGION(block, bytes); }
#else
constexpr size_t kRedZone = 0;
void open_block(void*, size_t) {}
void close_block(void*, size_t) {}
#endif

uint64_t rounded(size_t bytes) {
  return (bytes + kCacheLine - 1) / kCacheLine * kCacheLine + kRedZone;
}

}  // namespace

Arena::Arena(uint64_t planned) : planned_(planned), memory_(2 * rounded(planned) + 65536) {
  free_.reserve(kMostRuns);
  free_.push_back({0, memory_.size()});
  close_block(memory_.data(), memory_.size());
}

Arena::~Arena() {
  open_block(memory_.data(), memory_.size());
  if (in_use_ == 0) return;
  [[maybe_unused]] auto* leaked = new (std::nothrow) ReservedMemory(std::move(memory_));
}

void* Arena::take(size_t bytes) noexcept {
  const uint64_t size = rounded(bytes);
  const auto run = std::find_if(free_.begin(), free_.end(),
                                [&](const Run& r) { return r.end - r.begin >= size; });
  if (run == free_.end()) return nullptr;
  const uint64_t at = run->begin;
  run->begin += size;
  if (run->begin == run->end) free_.erase(run);
  if (at + size > extent()) extent_ = at + size;
  in_use_ += size;
  open_block(memory_.data() + at, bytes);
  return memory_.data() + at;
}

void Arena::give(void* block, size_t bytes) noexcept {
  const auto begin = static_cast<uint64_t>(static_cast<std::byte*>(block) - memory_.data());
  const uint64_t end = begin + rounded(bytes);
  in_use_ -= end - begin;
  close_block(block, bytes);
  auto after =
      std::find_if(free_.begin(), free_.end(), [&](const Run& run) { return run.begin >= end; });
  const bool joins_after = after != free_.end() && after->begin == end;
  if (after != free_.begin() && std::prev(after)->end == begin) {
    std::prev(after)->end = joins_after ? after->end : end;
    if (joins_after) free_.erase(after);
  } else if (joins_after) {
    after->begin = begin;
  } else if (free_.size() < kMostRuns) {
    free_.insert(after, {begin, end});
  }
  // Else the run is lost to the arena, not to its owner: it is unmapped with the rest.
}

uint64_t Arena::trim() {
  uint64_t bytes = 0;
  for (const Run& run : free_) bytes += memory_.discard(run.begin, std::min(run.end, extent()));
  return bytes;
}

ArenaScope::ArenaScope(Arena* arena) : before_(current_arena) { current_arena = arena; }

ArenaScope::~ArenaScope() { current_arena = before_; }

BufferMemory take_buffer_memory(size_t bytes) {
  if (Arena* arena = current_arena) {
    if (void* block = arena->take(bytes)) return {block, arena};
    arena->count_overflow(bytes);
  }
  return {::operator new(bytes, std::align_val_t{kCacheLine}), nullptr};
}

void give_buffer_memory(BufferMemory memory, size_t bytes) noexcept {
  if (memory.data == nullptr) return;
  if (memory.arena != nullptr) return memory.arena->give(memory.data, bytes);
  ::operator delete(memory.data, std::align_val_t{kCacheLine});
}

}  // namespace subbit
