// How fast a device is: the bandwidth of its memory, and the time of every kernel that a model may
// run, on random operands of one size. For the doctor; models choose by their own trial.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "backend/gpu/device.h"

namespace subbit {

struct KernelTime {
  std::string kernel;
  int64_t tokens = 0;  // of the call
  uint64_t bytes = 0;  // of weights, of keys and values, or else of rows that it reads and writes
  double seconds = 0;  // of one dispatch
};

struct KernelTimes {
  double bytes_per_second = 0;  // read by a kernel that does nothing else
  int64_t rows = 0;             // of the matrices, which are square
  std::vector<KernelTime> kernels;
};

/// Takes some seconds. Where one small product takes long, as on an emulated device, small is what
/// stays. Kernels that cannot be had are left out.
KernelTimes time_kernels(const std::shared_ptr<GpuDevice>& device);

}  // namespace subbit
