// What kernels load and store: races between threads, and how many bytes of each buffer a dispatch
// touches. The compiler reports every access (clang's -fsanitize-coverage=trace-loads,trace-stores)
// in a build of its own, SUBBIT_TRACE_ACCESSES; elsewhere nothing is reported and nothing is found.
//
// Two accesses to a byte, one of them a store, by different threads, race unless a barrier of the
// right kind lies between them: a threadgroup_barrier whose flags name the memory, or a
// simdgroup_barrier for lanes of one simdgroup. Threadgroups of one dispatch are never ordered.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace subbit::metal_on_cpu {

/// Whether this build reports accesses.
bool accesses_are_traced();

enum class Memory { kDevice, kThreadgroup };

/// Memory that a kernel may touch.
struct TracedRegion {
  std::string name;
  const std::byte* data = nullptr;
  size_t bytes = 0;
  Memory memory = Memory::kDevice;
};

struct Traffic {
  std::string name;
  uint64_t bytes_loaded = 0;
  uint64_t bytes_stored = 0;
};

/// Who accesses, and how much is ordered before it.
struct Accessor {
  uint32_t threadgroup = 0;
  uint32_t thread = 0;
  uint32_t interval = 0;            // threadgroup barriers that order the memory
  uint32_t simdgroup_interval = 0;  // simdgroup barriers of its simdgroup
};

class AccessTracer {
 public:
  explicit AccessTracer(std::vector<TracedRegion> regions);
  /// Threadgroup memory starts anew.
  void start_threadgroup();
  void access(const void* address, size_t bytes, bool store);
  /// The first race found, or empty.
  const std::string& race() const { return race_; }
  std::vector<Traffic> traffic() const;

  /// The tracer that accesses of this thread of the host are reported to, or null.
  static AccessTracer*& current();

 private:
  struct Byte {
    Accessor writer;
    Accessor reader;
    bool written = false;
    bool read = false;
    bool many_readers = false;  // besides `reader`, in its interval
  };
  struct Shadow {
    TracedRegion region;
    std::vector<Byte> bytes;
    Traffic traffic;
  };

  void access_byte(Shadow& shadow, size_t at, const Accessor& who, bool store);
  void report(const Shadow& shadow, size_t at, const Accessor& a, const Accessor& b);

  std::vector<Shadow> shadows_;
  std::string race_;
};

}  // namespace subbit::metal_on_cpu
