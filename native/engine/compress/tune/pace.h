// How far each step of a training goes: clipping by the gradient's own history, Adam's bias
// corrections, a warm-up and a cosine.
#pragma once

#include <cstdint>
#include <optional>

#include "compress/tune/adam.h"

namespace subbit {

class Pace {
 public:
  explicit Pace(int64_t steps) : steps_(steps) {}

  struct Step {
    AdamStep adam;       // without a rate
    float share = 0.0f;  // of the highest rate
  };
  /// The next step for gradients of this norm; none when they are not finite and are to be dropped.
  /// Throws kNonFinite when that happens ten times in a row.
  std::optional<Step> next(double gradient_norm);

 private:
  int64_t steps_;
  int64_t done_ = 0;
  int64_t updates_ = 0;  // that moved something
  double mean_norm_ = 0.0;
  int bad_steps_ = 0;
};

}  // namespace subbit
