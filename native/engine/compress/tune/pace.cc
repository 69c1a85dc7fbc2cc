// The schedule, in double.
#include "compress/tune/pace.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"

namespace subbit {
namespace {

constexpr int64_t kMostWarmupSteps = 10;
/// A step whose gradient is this many times the running mean is shortened.
constexpr double kClip = 2.0;
constexpr int kMostBadSteps = 10;

}  // namespace

std::optional<Pace::Step> Pace::next(double gradient_norm) {
  const auto step = static_cast<double>(done_++);
  if (!std::isfinite(gradient_norm)) {
    if (++bad_steps_ == kMostBadSteps)
      throw Error(ErrorCode::kNonFinite, "the gradients of the tuning are not finite");
    return std::nullopt;
  }
  bad_steps_ = 0;
  const double most = updates_ == 0 ? gradient_norm : kClip * mean_norm_;
  mean_norm_ =
      updates_ == 0 ? gradient_norm : 0.95 * mean_norm_ + 0.05 * std::min(gradient_norm, most);
  ++updates_;
  Step result;
  AdamStep& adam = result.adam;
  adam.gradient_scale = gradient_norm > most ? static_cast<float>(most / gradient_norm) : 1.0f;
  const auto t = static_cast<double>(updates_);
  adam.correction1 = static_cast<float>(1.0 / (1.0 - std::pow(double{adam.beta1}, t)));
  adam.correction2 = static_cast<float>(1.0 / (1.0 - std::pow(double{adam.beta2}, t)));
  const auto warmup = static_cast<double>(std::clamp<int64_t>(steps_ / 8, 1, kMostWarmupSteps));
  const double warm = std::min(1.0, (step + 1.0) / warmup);
  const double done = step / static_cast<double>(steps_);
  result.share = static_cast<float>(warm * 0.5 * (1.0 + std::cos(std::numbers::pi * done)));
  return result;
}

}  // namespace subbit
