// What a compression will cost in time and memory, predicted: operation counts of every stage over
// speeds measured on this machine in a moment. A prediction tells minutes from hours; it knows
// nothing of who else uses the machine.
#pragma once

#include <cstdint>

#include "base/thread_pool.h"
#include "compress/block_stages.h"
#include "compress/plan.h"
#include "compress/tune/tune.h"
#include "engine.h"
#include "models/model.h"

namespace subbit {

/// Floating-point operations a second of all threads together (a fused multiply-add is two), in
/// square matrices of a few hundred; and bytes a second of reading and writing memory.
struct MachineSpeeds {
  double gemm = 0.0;
  double gemm_bfloat16 = 0.0;
  double stream = 0.0;
};

/// Takes about a fifth of a second.
MachineSpeeds measure_speeds(ThreadPool& pool);

struct CostRequest {
  const CompressionPlan* plan = nullptr;
  const Model* model = nullptr;
  Effort effort = Effort::kBalanced;
  int fit_iterations = 0;
  BlockSchedule blocks;
  TuneSchedule tune;  // 0 steps: none
  int64_t gradient_windows = 0;
  CalibrationSize calibration;
};

PredictedCost predict_cost(const CostRequest& request, const MachineSpeeds& speeds);

}  // namespace subbit
