// From a model, on disk or imagined, to the plan of running it: where config, header facts, limits
// and the process meet. What estimate_memory() and loading have in common.
#pragma once

#include "engine.h"
#include "io/checkpoint.h"
#include "memory/plan_memory.h"

namespace subbit {

struct PlannedLoad {
  PlanRequest request;
  MemoryPlan plan;
  MemoryEstimate estimate;
};

/// The plan for a checkpoint, of which only header facts are used. Throws Error.
PlannedLoad plan_load(const Checkpoint& checkpoint, const MemoryRequest& request);

/// Throws kInsufficientMemory with every part of the plan, the limit and what would fit.
[[noreturn]] void refuse_for_memory(const MemoryEstimate& estimate);

}  // namespace subbit
