// Apple's GPU as a GpuDevice.
#pragma once

#include <memory>

#include "backend/gpu/device.h"

namespace subbit {

/// The system's GPU. Throws kDeviceUnavailable, with what the system or the shader compiler said.
std::unique_ptr<GpuDevice> open_metal_device();

}  // namespace subbit
