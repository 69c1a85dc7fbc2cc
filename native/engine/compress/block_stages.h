// The order in which one decoder block is compressed: per linear, what is still floats first
// absorbs the error of the blocks before it and of what is fitted already, then the linear is
// fitted, then refined; scales are folded; then all linears move together. Every stage can be left
// out.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "base/thread_pool.h"
#include "compress/block.h"
#include "compress/calibrate.h"
#include "compress/plan.h"
#include "compress/tune/block_training.h"
#include "compress/tune/gradient_moments.h"
#include "engine.h"
#include "io/checkpoint.h"
#include "models/model.h"

namespace subbit {

/// How the trainings of a block go; no negative numbers.
struct BlockSchedule {
  StageTraining absorb{0};
  StageTraining refine{0};
  StageTraining together{0};
  float latent_start = 0.0f;

  bool trains() const { return absorb.updates + refine.updates + together.updates > 0; }
  /// Of a block of so many linears.
  int64_t updates(int64_t linears) const {
    return linears * (absorb.updates + refine.updates) + together.updates;
  }
};

/// The effort's numbers where `stages` has none.
BlockSchedule block_schedule(Effort effort, const CompressStages& stages);

struct BlockRequest {
  const BlockPlan* plan = nullptr;
  int64_t index = 0;
  Model* model = nullptr;  // the block as yet uncompressed; its norms may be replaced
  const Checkpoint* checkpoint = nullptr;
  const InputMoments* moments = nullptr;
  const InputCovariances* covariances = nullptr;  // of coded linears
  std::span<const Table> tables;
  const GradientMoments* gradients = nullptr;  // empty: outputs count alike
  BlockData data;                              // where the schedule trains
  BlockSchedule schedule;
  int iterations = 0;
  uint64_t seed = 0;
};

/// Told of the work as it goes on; either may throw to end it.
struct BlockEvents {
  BlockStep fit;
  /// Before every update, with the stage and the last held-out error.
  std::function<void(const std::string& stage, double error)> update;
};

/// Throws kNonFinite naming the tensor, or what an event throws. Memory: one byte a sign of the
/// block, fit_factored's for the linear at work; where the schedule trains, the block's weights as
/// floats, and BlockStudent's.
FinishedBlock compress_block(const BlockRequest& request, ThreadPool& pool,
                             const BlockEvents& events);

}  // namespace subbit
