// A stopwatch per phase.
#include "compress/stage_clock.h"

#include <algorithm>
#include <utility>

namespace subbit {

StageClock::StageClock(JobControl& control, std::string first)
    : control_(control), listener_(std::move(control.on_progress)), since_(Clock::now()) {
  times_.push_back({std::move(first), 0.0});
  control_.on_progress = [this](const Progress& progress) {
    enter(progress.phase);
    if (listener_) listener_(progress);
  };
}

StageClock::~StageClock() { control_.on_progress = std::move(listener_); }

void StageClock::enter(const std::string& phase) {
  const Clock::time_point now = Clock::now();
  times_[current_].ms += std::chrono::duration<double, std::milli>(now - since_).count();
  since_ = now;
  if (times_[current_].name == phase) return;
  const auto known = std::find_if(times_.begin(), times_.end(),
                                  [&](const StageTime& time) { return time.name == phase; });
  current_ = static_cast<size_t>(known - times_.begin());
  if (known == times_.end()) times_.push_back({phase, 0.0});
}

std::vector<StageTime> StageClock::times() {
  enter(times_[current_].name);
  return times_;
}

}  // namespace subbit
