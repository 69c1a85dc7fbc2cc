// One function per stage.
#include "compress/effort.h"

#include "compress/cost.h"

namespace subbit {
namespace {

/// Holding every weight as a float: here 8 GiB, what a machine of 16 GB can spare.
constexpr int64_t kMostGradientBytes = int64_t{8} << 30;
/// Whole-model tuning holds every latent with its moments at once: 18 bytes a sign, here 8 GiB.
constexpr int64_t kMostTunedSigns = (int64_t{8} << 30) / 18;

/// Of embedding and head: a level with its moments is 12 bytes, here 2 GiB.
constexpr int64_t kMostTunedEndWeights = (int64_t{2} << 30) / 12;

/// The error falls by 6 % from 40 to 150 and by another 2 % to 400 (Gaussian 384 x 384 at 0.83
/// bits: 0.428, 0.402, 0.392), which tuning gains in fewer seconds.
int fit_iterations(Effort effort) { return effort == Effort::kFast ? 40 : 150; }

TuneSchedule tuning(const CompressRequest& request, const CompressionPlan& plan) {
  const StageTraining& own = request.stages.model;
  TuneSchedule schedule = tune_schedule(request.effort);
  if (own.updates >= 0) schedule.steps = own.updates;
  if (own.tokens >= 0) schedule.tokens_per_step = own.tokens;
  if (request.stages.teacher_tokens >= 0) schedule.teacher_tokens = request.stages.teacher_tokens;
  if (own.rate >= 0) schedule.latent_rate = own.rate;
  if (own.scale_rate >= 0) schedule.scale_rate = own.scale_rate;
  if (own.end_rate >= 0) schedule.end_rate = own.end_rate;
  if (!request.tune) schedule.steps = 0;
  int64_t end_weights = 0;
  for (const size_t i : moving_ends(plan, schedule)) end_weights += plan.ends[i].shape.count();
  if (end_weights > kMostTunedEndWeights) schedule.end_rate = 0.0f;
  return schedule;
}

/// Gradients are what blocks are trained by, and of little use without.
int64_t gradient_windows(const CompressRequest& request, const BlockSchedule& schedule,
                         const Manifest& manifest) {
  constexpr int64_t kWindows = 32;
  if (!request.tune || manifest.parameters * int64_t{4} > kMostGradientBytes) return 0;
  if (request.stages.gradient_windows >= 0) return request.stages.gradient_windows;
  return schedule.trains() ? kWindows : 0;
}

/// After little tuning rates that follow what errors cost leave one to three hundredths less
/// divergence, after much none (docs/quality.md): no effort asks for them by itself.
int64_t sensitivity_windows(const CompressRequest& request) {
  if (request.stages.rates == CompressStages::Rates::kUniform) return 0;
  return request.stages.sensitivity_windows;
}

}  // namespace

std::vector<size_t> moving_ends(const CompressionPlan& plan, const TuneSchedule& schedule) {
  std::vector<size_t> moving;
  for (size_t i = 0; i < plan.ends.size(); ++i)
    if (schedule.end_rate > 0.0f && plan.ends[i].bits != kAsStored) moving.push_back(i);
  return moving;
}

CompressWork work_of(const CompressRequest& request, const Manifest& manifest,
                     const CompressionPlan& plan) {
  CompressWork work;
  work.fit_iterations = fit_iterations(request.effort);
  if (request.tune) work.blocks = block_schedule(request.effort, request.stages);
  work.tune = tuning(request, plan);
  work.gradient_windows = gradient_windows(request, work.blocks, manifest);
  work.sensitivity_windows = sensitivity_windows(request);
  return work;
}

Tunable tunable(const CompressionPlan& plan) {
  double signs = 0;  // whole numbers, far below 2^53
  for (const BlockPlan& block : plan.blocks)
    for (const LinearPlan& linear : block.linears) signs += signs_of(linear);
  if (signs == 0) return Tunable::kNothing;
  return signs <= static_cast<double>(kMostTunedSigns) ? Tunable::kYes : Tunable::kTooLarge;
}

}  // namespace subbit
