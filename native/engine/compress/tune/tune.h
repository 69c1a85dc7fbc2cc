// Tuning: the fitted model learns to say what the teacher says, through the runtime's own
// arithmetic. Signs move by straight-through estimation, scales and norms by their gradients, all
// under Adam (Kingma and Ba 2015) with a cosine schedule; text that is never trained on decides
// which state is kept.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "compress/fit/fitted_block.h"
#include "compress/tune/tuned_end.h"
#include "engine.h"
#include "io/checkpoint.h"
#include "models/model.h"

namespace subbit {

/// How long and how boldly. Fixed before the work begins: results must not depend on a clock.
struct TuneSchedule {
  int64_t steps = 0;            // none: no tuning
  int64_t tokens_per_step = 0;  // at least; whole windows
  int64_t teacher_tokens = 0;   // text of the teacher's own making, beside the calibration text
  float latent_rate = 0.0f;
  float scale_rate = 0.0f;
  float latent_start = 0.0f;  // latents start within this distance of zero
  float end_rate = 0.0f;      // of embedding and head, in steps between codes; 0: they stand
  /// After so many steps the state is saved: as often as costs next to nothing, for a state takes
  /// about as long to write as two steps.
  int64_t steps_between_states = 400;
};
TuneSchedule tune_schedule(Effort effort);

/// How many of so many windows, the last ones, are never trained on.
size_t held_out_windows(size_t windows);

struct TuneRequest {
  const Manifest* manifest = nullptr;
  Model* teacher = nullptr;
  Model* student = nullptr;  // another instance, as StudentRequest::model
  /// What of embedding and head may move.
  std::vector<EndStart> ends;
  std::span<const std::vector<int32_t>> windows;
  TuneSchedule schedule;
  uint64_t seed = 0;
  /// Where the state is saved and looked for; empty: nowhere. It belongs to this request alone.
  std::string state_directory;
};

/// Continues from the state an interrupted call left, to the same result; where that cannot be read
/// it says so and starts over. Throws kFileError when a state cannot be written, kAborted, and
/// kNonFinite when the gradients stay not finite. Memory: the student's (student.h) and 256 bytes a
/// training token for targets.
FittedModel tune(const TuneRequest& request, FittedModel fitted, ThreadPool& pool,
                 JobControl& control);

}  // namespace subbit
