// Which dispatches may overlap. The encoder is concurrent and the device tracks nothing, so whoever
// encodes must put a barrier between two dispatches of which one writes what the other touches.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/gpu/device.h"

namespace subbit {

enum class GpuAccess { kRead, kWrite };

struct GpuUse {
  GpuSlice slice;
  GpuAccess access = GpuAccess::kRead;
};

class GpuHazards {
 public:
  /// Notes the next dispatch's uses; true when a barrier must stand before it.
  bool next(std::span<const GpuUse> uses);
  void clear() { since_barrier_.clear(); }

 private:
  std::vector<GpuUse> since_barrier_;
};

}  // namespace subbit
