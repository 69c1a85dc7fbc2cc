// What a request comes to in work: the numbers of its effort where it has none of its own, and
// which stages a model is too large for. The bounds are fixed and not the machine's own memory,
// because the same request must give the same bytes everywhere.
#pragma once

#include <cstdint>

#include "compress/block_stages.h"
#include "compress/plan.h"
#include "compress/tune/tune.h"
#include "engine.h"
#include "models/model.h"

namespace subbit {

struct CompressWork {
  int fit_iterations = 0;  // ADMM
  BlockSchedule blocks;
  TuneSchedule tune;  // of the whole model; 0 steps: none
  int64_t gradient_windows = 0;
  int64_t sensitivity_windows = 0;
};

CompressWork work_of(const CompressRequest& request, const Manifest& manifest,
                     const CompressionPlan& plan);

/// Weights of embedding and head that a tuning of the whole model may move: those of few bits, or
/// none where they are too many.
int64_t tunable_end_weights(const CompressionPlan& plan);

/// Whether a model so planned can be tuned whole.
enum class Tunable { kYes, kTooLarge, kNothing };
Tunable tunable(const CompressionPlan& plan);

}  // namespace subbit
