// Which back end a model runs on: the GPU where the caller lets it, the system has one, and its
// answers on this very model are the processor's; else the processor, with the reason in words.
#pragma once

#include <memory>
#include <string>

#include "backend/backend.h"
#include "backend/gpu/device.h"
#include "base/thread_pool.h"
#include "engine.h"
#include "runtime/opened_model.h"

namespace subbit {

struct ChosenDevice {
  std::unique_ptr<Backend> backend;
  DeviceFacts facts;
};

/// Where the GPU was asked for by name, what keeps it from running is thrown (kDeviceUnavailable,
/// kInsufficientMemory). `opened` must outlive the back end.
ChosenDevice choose_device(const LoadRequest& request, OpenedModel& opened, ThreadPool& pool);

/// The system's GPU. Throws kDeviceUnavailable with the reason.
using OpenGpu = std::unique_ptr<GpuDevice> (*)();
std::unique_ptr<GpuDevice> open_gpu();
/// Whether there is one, proved or not: what a plan of memory has to reckon with.
bool has_gpu();
/// Puts another GPU in place of the system's, or takes it back: how tests bring one to Linux. Not
/// while models are being loaded.
void set_gpu(OpenGpu open);

}  // namespace subbit
