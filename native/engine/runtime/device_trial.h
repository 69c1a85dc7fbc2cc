// Trust, earned. Each kernel of a GPU does small jobs beside the processor, once for a chip, a
// system and an engine; then, before a GPU runs a model, it answers a few tokens of it, and the
// answers must be the processor's. Where two kernels serve one job, the faster one is kept. The
// verdict is remembered for this chip, system, engine and kind of model.
#pragma once

#include <memory>
#include <string>

#include "backend/gpu/device.h"
#include "backend/gpu/policy.h"
#include "base/thread_pool.h"
#include "engine.h"
#include "runtime/opened_model.h"

namespace subbit {

struct TrialOptions {
  std::string verdicts;  // the file that remembers, or empty
  KvCacheType kv_cache = KvCacheType::kF16;
};

/// How the device should run this model. Throws kDeviceUnavailable where its answers are wrong, now
/// or when it was last tried; or what kept it from answering.
GpuPolicy proven_policy(const std::shared_ptr<GpuDevice>& device, const TrialOptions& options,
                        OpenedModel& opened, ThreadPool& pool);

}  // namespace subbit
