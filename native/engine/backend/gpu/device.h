// What the GPU back end needs of a device, in the words all GPUs share: memory that host and device
// both see, pipelines, and a stream of dispatches. backend/metal fulfils it; this room never learns
// how. A dispatch is bound to buffers and offsets, so that hazards are ranges of bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace subbit {

struct GpuFacts {
  std::string name;                // "Apple M1"
  std::string system;              // version and build of the operating system
  int family = 0;                  // Apple GPU family: 7 is M1; 0 where unknown
  uint64_t max_buffer_bytes = 0;   // of one buffer
  uint64_t working_set_bytes = 0;  // what the system advises to stay below
  uint64_t threadgroup_bytes = 0;  // memory a threadgroup may have
  uint64_t page_bytes = 0;         // of the system's memory
};

/// Memory that the device can address. Destroying it while a dispatch still uses it is refused by
/// nobody: whoever owns it waits first.
class GpuMemory {
 public:
  virtual ~GpuMemory() = default;
  std::span<std::byte> bytes() const { return bytes_; }

 protected:
  explicit GpuMemory(std::span<std::byte> bytes) : bytes_(bytes) {}

 private:
  std::span<std::byte> bytes_;  // the host's view
};

/// What a kernel's argument points at. `bytes` is how much of it the kernel may touch.
struct GpuSlice {
  const GpuMemory* memory = nullptr;
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

class GpuPipeline {
 public:
  virtual ~GpuPipeline() = default;
  /// Threads a threadgroup may have: registers decide, so it is known only after compiling.
  virtual uint32_t max_threads() const = 0;
};

struct GridSize {
  uint32_t x = 1;
  uint32_t y = 1;
  uint32_t z = 1;
  uint64_t count() const { return uint64_t{x} * y * z; }
};

/// One command buffer being filled. Dispatches may overlap unless a barrier stands between them.
class GpuCommands {
 public:
  virtual ~GpuCommands() = default;
  virtual void pipeline(const GpuPipeline& pipeline) = 0;
  virtual void bind(int index, const GpuSlice& slice) = 0;
  /// Small arguments, copied at once; at most 4 KiB.
  virtual void bytes(int index, std::span<const std::byte> data) = 0;
  virtual void threadgroup_memory(int index, uint32_t bytes) = 0;
  virtual void dispatch(GridSize groups, GridSize threads) = 0;
  /// What was dispatched before is visible to what is dispatched after.
  virtual void barrier() = 0;
  /// Runs everything and waits. Throws kDeviceLost, kInsufficientMemory or kInternal with what the
  /// device said; the object is spent either way.
  virtual void run() = 0;
  /// Instead of run(): forgets everything. After run() there is nothing to forget.
  virtual void drop() = 0;
};

class GpuDevice {
 public:
  virtual ~GpuDevice() = default;
  virtual const GpuFacts& facts() const = 0;
  /// The device's view of memory that the caller keeps alive: begin and size are multiples of the
  /// page, size at most max_buffer_bytes. Nothing is copied. Throws kInsufficientMemory.
  virtual std::unique_ptr<GpuMemory> map(std::span<std::byte> pages) = 0;
  /// Throws kInsufficientMemory.
  virtual std::unique_ptr<GpuMemory> allocate(uint64_t bytes) = 0;
  /// The kernel of that name, which must be a literal or one of kernels(): made ready on first use
  /// and kept. Throws kDeviceUnavailable with the compiler's words.
  virtual const GpuPipeline& pipeline(std::string_view kernel) = 0;
  /// Every kernel of the library. The names live as long as the device.
  virtual std::vector<std::string_view> kernels() = 0;
  /// An empty command buffer: one object that serves again and again, so that a token costs the
  /// host no memory. The one before must have been run or dropped, on the same thread.
  virtual GpuCommands& begin() = 0;
};

}  // namespace subbit
