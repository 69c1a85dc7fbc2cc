// A Metal for Linux: the Objective-C runtime and the dozen classes that backend/metal talks to,
// over metal_on_cpu, so that the host's own files run unchanged. It refuses what Metal's validation
// layer refuses, runs what no barrier parts in reverse order, and fails where a test says so.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace subbit::fake_metal {

/// A use of Metal that a Mac would abort on.
struct Misuse : std::logic_error {
  using std::logic_error::logic_error;
};

struct Settings {
  bool no_device = false;
  int family = 7;
  bool before_macos_15 = false;  // no residency sets, no setMathMode:
  std::string compile_error;     // the shader compiler's words; empty: it compiles
  uint64_t max_buffer_bytes = uint64_t{1} << 34;
  uint64_t most_memory = UINT64_MAX;  // newBufferWithLength: gives nil past it
  int64_t lose_device_at = -1;        // the command buffer that fails, counted from 0
  long error_code = 4;                // MTLCommandBufferError of that one
  std::string error_text = "Caused GPU Address Fault Error";
  uint32_t max_threads = 1024;  // of every pipeline
  std::string broken_kernel;    // does nothing, as one that a compiler got wrong
  // Planted faults of the host: its barriers do nothing; it owns no reference of this class.
  bool ignore_barriers = false;
  std::string autoreleased;
};

struct Counts {
  int64_t live_objects = 0;
  int64_t over_releases = 0;  // since the process began
  int64_t command_buffers = 0;
  int64_t dispatches = 0;
  std::vector<std::string> kernels;  // of the last command buffer, in order
  int64_t barriers = 0;
  int64_t compilations = 0;
  uint64_t allocated_bytes = 0;  // by newBufferWithLength:, alive
};

#if defined(__APPLE__)
// A Mac has the real one, which obeys nobody and counts nothing.
inline void reset() {}
inline Counts counts() { return {}; }
#else
/// For devices made from now on, and the counting starts over. Not while a device is alive.
void reset(const Settings& settings = {});
Counts counts();
#endif

}  // namespace subbit::fake_metal
