// How long each phase of a job took, learnt from the progress it reports anyway: a phase lasts from
// its first event to another's. What is asked of the job's listener is passed on.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "engine.h"

namespace subbit {

class StageClock {
 public:
  /// Listens to `control` until it goes, which `control` must outlive. Time before the first event
  /// counts as `first`.
  StageClock(JobControl& control, std::string first);
  ~StageClock();
  StageClock(const StageClock&) = delete;
  StageClock& operator=(const StageClock&) = delete;

  /// Until now.
  std::vector<StageTime> times();

 private:
  using Clock = std::chrono::steady_clock;
  void enter(const std::string& phase);

  JobControl& control_;
  std::function<void(const Progress&)> listener_;
  std::vector<StageTime> times_;
  size_t current_ = 0;
  Clock::time_point since_;
};

}  // namespace subbit
