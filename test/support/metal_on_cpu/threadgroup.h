// One threadgroup in flight: who may run, who waits for whom, and what lanes exchange. Kernels see
// it through the simd operations and barriers of shader_language.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "support/metal_on_cpu/access_tracer.h"
#include "support/metal_on_cpu/fiber.h"
#include "support/metal_on_cpu/kernel_registry.h"

namespace subbit::metal_on_cpu {

inline constexpr uint32_t kLanes = 32;
inline constexpr size_t kSlotBytes = 16;  // the largest value lanes exchange

/// Where in the source a lane waits.
struct Site {
  const char* operation = "";
  const char* file = "";
  int line = 0;
  bool operator==(const Site& other) const {
    return line == other.line && std::string_view(operation) == other.operation &&
           std::string_view(file) == other.file;
  }
};

/// What a kernel's lanes have done, for the tables of counted speed.
struct Events {
  uint64_t simd_operations = 0;  // of a simdgroup
  uint64_t barriers = 0;         // of a threadgroup
  uint64_t threads = 0;
};

/// Ors bits into *word; returns what was there.
uint32_t atomic_or(uint32_t* word, uint32_t bits);

class Threadgroup {
 public:
  Threadgroup(const Kernel& kernel, uint32_t threads, ThreadOrder order, uint64_t seed);
  /// Runs one threadgroup, the `number`th, from its first to its last instruction. `values`
  /// [threads][arguments].
  void run(uint32_t number, const std::vector<void* const*>& values);
  const Events& events() const { return events_; }

  // The rest is called from inside kernels, on fibers.

  /// The threadgroup of the fiber that calls, or null outside kernels.
  static Threadgroup* current();
  uint32_t thread() const { return running_; }
  /// Leaves `bytes` bytes for the simdgroup, waits until all its lanes have, and returns what they
  /// left, kSlotBytes apart; valid until this lane's next exchange but one.
  const std::byte* exchange(const void* value, size_t bytes, const Site& site);
  /// Waits until all lanes of the simdgroup are here; what they wrote before is then theirs to
  /// read.
  void simdgroup_barrier(const Site& site);
  /// The same for the threadgroup, as to the kinds of memory that the flags name.
  struct Orders {
    bool device = false;
    bool threadgroup = false;
  };
  void barrier(Orders orders, const Site& site);
  /// The running thread, as the tracer wants to know it.
  Accessor accessor(Memory memory) const;

 private:
  enum class State { kReady, kSimd, kBarrier, kDone };
  struct Thread {
    Fiber fiber;
    State state = State::kReady;
    Site site;
    uint32_t exchanges = 0;
    uint32_t simdgroup_barriers = 0;
    Orders orders;  // of the barrier it waits at
    void* const* values = nullptr;
    Threadgroup* owner = nullptr;
  };
  struct Simdgroup {
    alignas(kSlotBytes) std::byte slots[2][kLanes][kSlotBytes];
    uint32_t first = 0;  // its first thread
    uint32_t barriers = 0;
  };

  static void enter(void* thread);
  void wait(State state, const Site& site);
  bool runnable(const Simdgroup& group) const;
  void run_lanes(Simdgroup& group);
  void settle(Simdgroup& group);
  bool release_barrier();
  [[noreturn]] void diverged(uint32_t first, uint32_t count) const;
  std::string where(uint32_t thread) const;

  const Kernel& kernel_;
  ThreadOrder order_;
  std::mt19937_64 random_;
  std::vector<std::unique_ptr<Thread>> threads_;
  std::vector<Simdgroup> simdgroups_;
  uint32_t running_ = 0;
  uint32_t number_ = 0;
  uint32_t device_interval_ = 0;
  uint32_t threadgroup_interval_ = 0;
  Events events_;
};

}  // namespace subbit::metal_on_cpu
