// What a request comes to in work: the numbers of its effort where it has none of its own, and
// which stages a model is too large for. The bounds are fixed and not the machine's own memory,
// because the same request must give the same bytes everywhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

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

/// Which of the plan's ends a tuning of the whole model moves: those of few bits, where ends have a
/// rate at all. work_of() gives them none where they are too many.
std::vector<size_t> moving_ends(const CompressionPlan& plan, const TuneSchedule& schedule);

/// Whether a model so planned can be tuned whole.
enum class Tunable { kYes, kTooLarge, kNothing };
Tunable tunable(const CompressionPlan& plan);

}  // namespace subbit
