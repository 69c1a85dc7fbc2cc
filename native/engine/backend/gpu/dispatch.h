// One dispatch as it is put together: arguments and buffers in the order of the kernel's table
// (metal/README.md), each buffer with what the kernel does to it. Running it places the barrier
// that its hazards ask for.
#pragma once

#include <array>
#include <cstring>
#include <span>
#include <string_view>

#include "backend/gpu/device.h"
#include "backend/gpu/hazards.h"
#include "base/check.h"

namespace subbit {

/// Where dispatches of one command buffer go, and what is counted of them.
struct GpuStream {
  GpuDevice& device;
  GpuCommands* commands = nullptr;
  GpuHazards hazards;
  int64_t dispatches = 0;
  int64_t barriers = 0;
};

class GpuDispatch {
 public:
  GpuDispatch(GpuStream& stream, std::string_view kernel)
      : stream_(stream), pipeline_(stream.device.pipeline(kernel)) {
    stream_.commands->pipeline(pipeline_);
  }

  template <typename Arguments>
  GpuDispatch& arguments(const Arguments& arguments) {
    stream_.commands->bytes(next_++, std::as_bytes(std::span(&arguments, 1)));
    return *this;
  }
  GpuDispatch& read(const GpuSlice& slice) { return use(slice, GpuAccess::kRead); }
  /// Written, or read and written.
  GpuDispatch& write(const GpuSlice& slice) { return use(slice, GpuAccess::kWrite); }
  /// Bound because the kernel has the argument, but not touched; or touched by atomics alone.
  GpuDispatch& bind(const GpuSlice& slice) {
    stream_.commands->bind(next_++, slice);
    return *this;
  }
  GpuDispatch& threadgroup(uint32_t bytes) {
    stream_.commands->threadgroup_memory(0, (bytes + 15) / 16 * 16);
    return *this;
  }
  void run(GridSize groups, uint32_t threads) {
    if (stream_.hazards.next(std::span(uses_).first(count_))) {
      stream_.commands->barrier();
      ++stream_.barriers;
    }
    stream_.commands->dispatch(groups, {threads, 1, 1});
    ++stream_.dispatches;
  }

 private:
  static constexpr size_t kMostUses = 16;

  GpuDispatch& use(const GpuSlice& slice, GpuAccess access) {
    CHECK(count_ < kMostUses);
    uses_[count_++] = {slice, access};
    return bind(slice);
  }

  GpuStream& stream_;
  const GpuPipeline& pipeline_;
  int next_ = 0;
  size_t count_ = 0;
  std::array<GpuUse, kMostUses> uses_{};
};

}  // namespace subbit
