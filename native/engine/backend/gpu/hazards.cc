// Overlaps of byte ranges since the last barrier.
#include "backend/gpu/hazards.h"

#include <algorithm>

namespace subbit {
namespace {

bool conflict(const GpuUse& a, const GpuUse& b) {
  if (a.access == GpuAccess::kRead && b.access == GpuAccess::kRead) return false;
  // Windows over one file overlap as buffers do: what counts is where the bytes are.
  const auto* a_begin = a.slice.memory->bytes().data() + a.slice.offset;
  const auto* b_begin = b.slice.memory->bytes().data() + b.slice.offset;
  return a_begin < b_begin + b.slice.bytes && b_begin < a_begin + a.slice.bytes;
}

}  // namespace

bool GpuHazards::next(std::span<const GpuUse> uses) {
  const bool barrier = std::ranges::any_of(uses, [&](const GpuUse& use) {
    return std::ranges::any_of(since_barrier_,
                               [&](const GpuUse& earlier) { return conflict(use, earlier); });
  });
  if (barrier) clear();
  since_barrier_.insert(since_barrier_.end(), uses.begin(), uses.end());
  return barrier;
}

}  // namespace subbit
