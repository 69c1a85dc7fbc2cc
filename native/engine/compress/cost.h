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
#include "memory/plan_memory.h"
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

/// What is counted once for all stages.
struct CostCounts {
  double body_weights = 0;
  double signs = 0;          // of all packed linears
  double coded = 0;          // weights that an index or a word of signs stands for
  double largest_block = 0;  // weights
  double end_weights = 0;    // of the head
  double hidden = 0;
  double layers = 0;
  double kv = 0;
  double vocab = 0;
  double window = 0;  // tokens
};

struct CostRequest {
  const CompressionPlan* plan = nullptr;
  const Model* model = nullptr;
  Effort effort = Effort::kBalanced;
  int fit_iterations = 0;
  BlockSchedule blocks;
  TuneSchedule tune;  // 0 steps: none
  int64_t gradient_windows = 0;
  int64_t sensitivity_windows = 0;
  CalibrationSize calibration;
  uint64_t original_bytes = 0;  // of the weight files
  ProcessNeeds process;
};

CostCounts count_work(const CostRequest& request);
/// Signs or indices of a packed linear.
double signs_of(const LinearPlan& linear);

PredictedCost predict_cost(const CostRequest& request, const MachineSpeeds& speeds);

}  // namespace subbit
