// Choosing a device.
#include "runtime/devices.h"

#include <utility>

#include "backend/cpu/cpu_backend.h"
#include "backend/gpu/gpu_backend.h"
#include "base/check.h"
#include "runtime/device_trial.h"
#if defined(__APPLE__)
#include "backend/metal/metal_device.h"
#endif

namespace subbit {
namespace {

std::unique_ptr<GpuDevice> system_gpu() {
#if defined(__APPLE__)
  return open_metal_device();
#else
  throw Error(ErrorCode::kDeviceUnavailable,
              "Metal is a part of macOS, and this is not a Mac: the processor does the work",
              {{"device", "metal"}});
#endif
}

OpenGpu gpu_opener = system_gpu;

ChosenDevice on_gpu(const LoadRequest& request, OpenedModel& opened, ThreadPool& pool) {
  const std::shared_ptr<GpuDevice> device = open_gpu();
  const GpuPolicy policy =
      proven_policy(device, {request.verdicts, request.kv_cache}, opened, pool);
  ChosenDevice chosen;
  chosen.facts = {"metal", device->facts().name, "", policy_name(policy)};
  chosen.backend = make_gpu_backend(device, policy);
  for (const auto& mapping : opened.checkpoint().mappings()) chosen.backend->share(mapping);
  return chosen;
}

}  // namespace

std::unique_ptr<GpuDevice> open_gpu() { return gpu_opener(); }

bool has_gpu() {
  try {
    return open_gpu() != nullptr;
  } catch (const Error&) {
    return false;
  }
}

void set_gpu(OpenGpu open) { gpu_opener = open == nullptr ? system_gpu : open; }

ChosenDevice choose_device(const LoadRequest& request, OpenedModel& opened, ThreadPool& pool) {
  std::string reason;
  if (request.device != DeviceChoice::kCpu) {
    try {
      return on_gpu(request, opened, pool);
    } catch (const Error& error) {
      if (request.device == DeviceChoice::kMetal) throw;
      reason = error.what();
    }
  }
  return {make_cpu_backend(pool), {"cpu", "", reason, ""}};
}

}  // namespace subbit
