// The back end that runs on a GPU: it notes what a forward pass asks for and, when the host wants
// to read, has it planned, encoded into one command buffer and run.
#pragma once

#include <memory>

#include "backend/backend.h"
#include "backend/gpu/device.h"
#include "backend/gpu/policy.h"

namespace subbit {

struct GpuCounts {
  int64_t command_buffers = 0;
  int64_t dispatches = 0;
  int64_t barriers = 0;
  uint64_t scratch_bytes = 0;
  uint64_t copied_bytes = 0;  // constants and askew weights
  uint64_t mapped_bytes = 0;
};

class GpuBackend : public Backend {
 public:
  /// What has been run so far.
  virtual GpuCounts counts() const = 0;
};

/// Bytes that a device allocates at most for such work: scratch, copies of constants, and what the
/// device's own software is assumed to take.
uint64_t gpu_bytes(const BackendWork& work);
/// Of it, that assumption: no Mac was at hand to measure it.
inline constexpr uint64_t kAssumedDriverBytes = uint64_t{32} << 20;

/// Used from one thread at a time. An error (kDeviceLost, kInsufficientMemory, kNonFinite) leaves
/// it as if the pass had not been asked for.
std::unique_ptr<GpuBackend> make_gpu_backend(std::shared_ptr<GpuDevice> device,
                                             const GpuPolicy& policy);

}  // namespace subbit
