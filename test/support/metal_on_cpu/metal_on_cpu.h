// Runs the kernels of metal/*.metal on the CPU: one fiber per GPU thread, simdgroups of 32 that
// meet at every simd operation, threadgroup barriers, poisoned threadgroup memory. It is sequential
// and exact, so it proves results and discipline, not speed.
//
// What a kernel is given is read from its signature in the .metal file: which buffer index is what,
// read-only or not. A kernel that does what Metal forbids (lanes that meet at different operations,
// a barrier some threads never reach) ends the dispatch with a MetalError that names the line.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "support/metal_on_cpu/access_tracer.h"

namespace subbit::metal_on_cpu {

/// What the kernel did wrong, or the dispatch: "sign_gemv_store: ...".
struct MetalError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Size3 {
  uint32_t x = 1;
  uint32_t y = 1;
  uint32_t z = 1;
  uint64_t count() const { return uint64_t{x} * y * z; }
};

/// Bytes bound at [[buffer(index)]]: a device buffer from some offset, or the bytes of setBytes.
struct Binding {
  void* data = nullptr;
  size_t bytes = 0;
};

/// In which order the threads that may run next are run.
enum class ThreadOrder { kForward, kReversed, kRandom };

struct Dispatch {
  std::string kernel;
  Size3 grid;                             // threadgroups
  Size3 threads;                          // of one threadgroup; at most kMostThreads
  std::vector<Binding> buffers;           // by index; {} where nothing is bound
  std::vector<size_t> threadgroup_bytes;  // by [[threadgroup(index)]]; multiples of 16
  ThreadOrder order = ThreadOrder::kForward;
  uint64_t seed = 1;  // of kRandom
};

inline constexpr uint32_t kMostThreads = 1024;
inline constexpr size_t kMostThreadgroupBytes = 32768;

/// Runs every threadgroup, one after another. Throws MetalError; buffers may then be half written.
void run(const Dispatch& dispatch);

/// What a dispatch did, for the tables of counted speed.
struct Counts {
  uint64_t threadgroups = 0;
  uint64_t threads = 0;
  uint64_t simd_operations = 0;  // each by 32 lanes
  uint64_t barriers = 0;         // each by a threadgroup
  std::vector<Traffic> traffic;  // of each buffer and threadgroup memory; only in a tracing build
};
Counts run_counted(const Dispatch& dispatch);

/// How a kernel takes one of its arguments.
struct Argument {
  enum class Kind { kConstant, kDeviceRead, kDeviceWrite, kThreadgroup, kThread };
  Kind kind = Kind::kThread;
  uint32_t index = 0;  // of [[buffer()]] or [[threadgroup()]]
  std::string name;
  std::string type;       // "uint4", without address space, const and *
  std::string attribute;  // kThread: "thread_index_in_simdgroup"
};

/// A kernel's arguments, in order. Throws MetalError when there is no such kernel.
const std::vector<Argument>& arguments_of(std::string_view kernel);
/// Every kernel there is, sorted.
std::vector<std::string> kernel_names();

}  // namespace subbit::metal_on_cpu
