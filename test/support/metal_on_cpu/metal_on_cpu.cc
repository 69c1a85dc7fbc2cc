// A dispatch: its arguments are checked as Metal's validation layer would, then its threadgroups
// run one after another.
#include "support/metal_on_cpu/metal_on_cpu.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>

#include "support/metal_on_cpu/access_tracer.h"
#include "support/metal_on_cpu/threadgroup.h"

namespace subbit::metal_on_cpu {
namespace {

struct Uint3 {
  uint32_t x, y, z;
};

/// The values of THREAD for one thread.
struct ThreadValues {
  alignas(16) Uint3 group;
  uint32_t index;
  uint32_t lane;
  uint32_t simdgroup;
};

[[noreturn]] void refuse(const Dispatch& dispatch, const std::string& why) {
  throw MetalError(dispatch.kernel + ": " + why);
}

void check_sizes(const Dispatch& dispatch) {
  const uint64_t threads = dispatch.threads.count();
  if (threads == 0 || threads > kMostThreads || threads % kLanes != 0) {
    refuse(dispatch, std::to_string(threads) + " threads in a threadgroup");
  }
  if (dispatch.grid.count() == 0) refuse(dispatch, "an empty grid");
  size_t bytes = 0;
  for (const size_t each : dispatch.threadgroup_bytes) {
    if (each % 16 != 0) {
      refuse(dispatch, std::to_string(each) + " bytes of threadgroup memory, not a multiple of 16");
    }
    bytes += each;
  }
  if (bytes > kMostThreadgroupBytes) {
    refuse(dispatch, std::to_string(bytes) + " bytes of threadgroup memory");
  }
}

void* buffer_value(const Dispatch& dispatch, const Kernel& kernel, size_t i) {
  const Argument& argument = kernel.arguments[i];
  const auto name = "buffer " + std::to_string(argument.index) + " (" + argument.name + ")";
  if (argument.index >= dispatch.buffers.size() || !dispatch.buffers[argument.index].data) {
    refuse(dispatch, name + " is not bound");
  }
  const Binding& binding = dispatch.buffers[argument.index];
  const Layout layout = kernel.layouts[i];
  if (argument.kind == Argument::Kind::kConstant && binding.bytes < layout.bytes) {
    refuse(dispatch, name + " holds " + std::to_string(binding.bytes) + " bytes, " + argument.type +
                         " takes " + std::to_string(layout.bytes));
  }
  if (reinterpret_cast<uintptr_t>(binding.data) % layout.alignment != 0) {
    refuse(dispatch, name + " is not aligned to " + std::to_string(layout.alignment) + " bytes");
  }
  return binding.data;
}

/// What every thread shares: pointers by argument, null for those of THREAD.
struct SharedValues {
  std::vector<void*> values;
  std::vector<std::unique_ptr<std::byte[]>> memory;  // threadgroup, exact size
  std::vector<size_t> sizes;
};

SharedValues shared_values(const Dispatch& dispatch, const Kernel& kernel) {
  SharedValues shared;
  for (size_t i = 0; i < kernel.arguments.size(); ++i) {
    const Argument& argument = kernel.arguments[i];
    void* value = nullptr;
    if (argument.kind == Argument::Kind::kThreadgroup) {
      const auto& lengths = dispatch.threadgroup_bytes;
      const size_t bytes = argument.index < lengths.size() ? lengths[argument.index] : 0;
      if (bytes == 0) {
        refuse(dispatch, "no length for threadgroup memory " + std::to_string(argument.index));
      }
      shared.memory.emplace_back(new std::byte[bytes]);
      shared.sizes.push_back(bytes);
      value = shared.memory.back().get();
    } else if (argument.kind != Argument::Kind::kThread) {
      value = buffer_value(dispatch, kernel, i);
    }
    shared.values.push_back(value);
  }
  return shared;
}

void* thread_value(const Dispatch& dispatch, const Argument& argument, ThreadValues& values) {
  if (argument.attribute == "threadgroup_position_in_grid") return &values.group;
  if (argument.attribute == "thread_index_in_threadgroup") return &values.index;
  if (argument.attribute == "thread_index_in_simdgroup") return &values.lane;
  if (argument.attribute == "simdgroup_index_in_threadgroup") return &values.simdgroup;
  refuse(dispatch, "unknown attribute " + argument.attribute);
}

/// Everything the kernel may touch, with its name in the signature.
std::vector<TracedRegion> traced_regions(const Dispatch& dispatch, const Kernel& kernel,
                                         const SharedValues& shared) {
  std::vector<TracedRegion> regions;
  size_t memory = 0;
  for (size_t i = 0; i < kernel.arguments.size(); ++i) {
    const Argument& argument = kernel.arguments[i];
    const auto* data = static_cast<const std::byte*>(shared.values[i]);
    if (argument.kind == Argument::Kind::kThreadgroup) {
      regions.push_back({argument.name, data, shared.sizes[memory++], Memory::kThreadgroup});
    } else if (argument.kind == Argument::Kind::kDeviceRead ||
               argument.kind == Argument::Kind::kDeviceWrite) {
      const size_t bytes = dispatch.buffers[argument.index].bytes;
      regions.push_back({argument.name, data, bytes, Memory::kDevice});
    }
  }
  return regions;
}

/// Reports accesses to a tracer while it lives.
class Tracing {
 public:
  explicit Tracing(std::vector<TracedRegion> regions) : tracer_(std::move(regions)) {
    AccessTracer::current() = &tracer_;
  }
  ~Tracing() { AccessTracer::current() = nullptr; }
  AccessTracer& tracer() { return tracer_; }

 private:
  AccessTracer tracer_;
};

}  // namespace

void run(const Dispatch& dispatch) { run_counted(dispatch); }

Counts run_counted(const Dispatch& dispatch) {
  const Kernel& kernel = find_kernel(dispatch.kernel);
  check_sizes(dispatch);
  const SharedValues shared = shared_values(dispatch, kernel);

  const auto threads = static_cast<uint32_t>(dispatch.threads.count());
  const size_t count = kernel.arguments.size();
  std::vector<ThreadValues> own(threads);
  std::vector<void*> all(threads * count);
  std::vector<void* const*> rows(threads);
  for (uint32_t t = 0; t < threads; ++t) {
    own[t] = {{0, 0, 0}, t, t % kLanes, t / kLanes};
    for (size_t i = 0; i < count; ++i) {
      const bool thread = kernel.arguments[i].kind == Argument::Kind::kThread;
      all[t * count + i] =
          thread ? thread_value(dispatch, kernel.arguments[i], own[t]) : shared.values[i];
    }
    rows[t] = &all[t * count];
  }
  std::optional<Tracing> tracing;
  if (accesses_are_traced()) tracing.emplace(traced_regions(dispatch, kernel, shared));
  Threadgroup threadgroup(kernel, threads, dispatch.order, dispatch.seed);
  for (uint64_t g = 0; g < dispatch.grid.count(); ++g) {
    const Size3& grid = dispatch.grid;
    const uint64_t i = dispatch.order == ThreadOrder::kReversed ? grid.count() - 1 - g : g;
    const Uint3 position = {static_cast<uint32_t>(i % grid.x),
                            static_cast<uint32_t>(i / grid.x % grid.y),
                            static_cast<uint32_t>(i / grid.x / grid.y)};
    for (ThreadValues& values : own) values.group = position;
    for (size_t m = 0; m < shared.memory.size(); ++m) {
      // NaNs as floats, -1 as integers: neither passes for a zero.
      std::memset(shared.memory[m].get(), 0xFF, shared.sizes[m]);
    }
    if (tracing) tracing->tracer().start_threadgroup();
    threadgroup.run(static_cast<uint32_t>(g), rows);
    if (tracing && !tracing->tracer().race().empty()) refuse(dispatch, tracing->tracer().race());
  }
  Counts counts;
  counts.threadgroups = dispatch.grid.count();
  counts.threads = threadgroup.events().threads;
  counts.simd_operations = threadgroup.events().simd_operations;
  counts.barriers = threadgroup.events().barriers;
  if (tracing) counts.traffic = tracing->tracer().traffic();
  return counts;
}

}  // namespace subbit::metal_on_cpu
