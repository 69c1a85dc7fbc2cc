// A block's state goes from phase to phase; each phase says what moves.
#include "compress/block_stages.h"

#include <cstdio>
#include <utility>

#include "base/check.h"
#include "base/rng.h"

namespace subbit {
namespace {

class BlockStages {
 public:
  BlockStages(const BlockRequest& request, ThreadPool& pool, const BlockEvents& events)
      : request_(request),
        pool_(pool),
        events_(events),
        fit_seeds_(request.seed),
        // Their own, so that a fit's signs do not depend on which stages run.
        phase_seeds_(~request.seed) {}
  FittedBlock run();

 private:
  const Linear& source(const LinearPlan& plan) const;
  void start();
  void fit(size_t i);
  void train(const std::string& stage, const StageTraining& training);
  void absorb(size_t first);
  void refine(size_t i);
  void train_together();

  const BlockRequest& request_;
  ThreadPool& pool_;
  const BlockEvents& events_;
  Rng fit_seeds_;
  Rng phase_seeds_;
  BlockState state_;
};

const Linear& BlockStages::source(const LinearPlan& plan) const {
  const Linear* linear = request_.model->find_linear(plan.spec->name);
  CHECK(linear != nullptr && linear->shape == plan.spec->shape);
  return *linear;
}

void BlockStages::start() {
  for (const LinearPlan& plan : request_.plan->linears) {
    BlockLinear& linear = state_.linears.emplace_back();
    linear.name = plan.spec->name;
    if (request_.schedule.trains()) linear.dense = stacked_linear(source(plan));
  }
  for (const NormPlan& norm : request_.plan->norms) {
    const std::vector<float>* values = request_.model->find_norm(norm.name);
    CHECK(values != nullptr);
    state_.norms.push_back({norm.name, norm.folded, *values});
  }
}

void BlockStages::fit(size_t i) {
  const LinearPlan& plan = request_.plan->linears[i];
  BlockLinear& linear = state_.linears[i];
  if (!request_.schedule.trains()) linear.dense = stacked_linear(source(plan));
  LinearFitRequest fit;
  fit.plan = &plan;
  fit.weights = &linear.dense;
  fit.iterations = request_.iterations;
  fit.seed = fit_seeds_.next();
  const auto moments = request_.moments->find(linear.name);
  CHECK(moments != request_.moments->end());
  fit.importance.inputs = moments->second;
  const auto covariance = request_.covariances->find(linear.name);
  if (covariance != request_.covariances->end())
    fit.covariance = {covariance->second.data(), plan.spec->shape.cols, plan.spec->shape.cols};
  fit.tables = request_.tables;
  const auto gradients = request_.gradients->find(linear.name);
  if (gradients != request_.gradients->end()) fit.importance.outputs = gradients->second;
  linear.fitted = fit_linear(fit, pool_, events_.fit);
  linear.dense = {};
}

void BlockStages::train(const std::string& stage, const StageTraining& training) {
  BlockPhase phase;
  phase.updates = training.updates;
  phase.tokens_per_update = training.tokens;
  phase.rates = {training.rate, training.rate, training.scale_rate};
  phase.latent_start = request_.schedule.latent_start;
  phase.seed = phase_seeds_.next();
  const BlockPlace place{request_.model, request_.index, request_.data.inputs->longest(),
                         request_.tables};
  state_ = train_block(
      place, std::move(state_), request_.data, phase, pool_,
      [&](int64_t, double error) { events_.update(stage, error); }, nullptr);
}

/// What is still floats moves.
void BlockStages::absorb(size_t first) {
  if (request_.schedule.absorb.updates == 0) return;
  for (size_t i = 0; i < state_.linears.size(); ++i)
    state_.linears[i].movement = i < first ? Movement::kStands : Movement::kMoves;
  train("absorb before " + state_.linears[first].name, request_.schedule.absorb);
}

void BlockStages::refine(size_t i) {
  if (request_.schedule.refine.updates == 0) return;
  for (BlockLinear& linear : state_.linears) linear.movement = Movement::kStands;
  state_.linears[i].movement = Movement::kMoves;
  train("refine " + state_.linears[i].name, request_.schedule.refine);
}

/// With the scales folded as they will be: codes are then rounded as the runtime rounds them.
void BlockStages::train_together() {
  if (request_.schedule.together.updates == 0) return;
  for (BlockLinear& linear : state_.linears) linear.movement = Movement::kMoves;
  state_.norms_movement = Movement::kMoves;
  train("all linears", request_.schedule.together);
}

FittedBlock BlockStages::run() {
  start();
  for (size_t i = 0; i < state_.linears.size(); ++i) {
    absorb(i);
    fit(i);
    refine(i);
  }
  FittedBlock block;
  for (BlockLinear& linear : state_.linears) block.linears.push_back(std::move(*linear.fitted));
  block.norms = std::move(state_.norms);
  fold_scales(*request_.plan, block);
  if (request_.schedule.together.updates == 0) return block;
  for (size_t i = 0; i < state_.linears.size(); ++i)
    state_.linears[i].fitted = std::move(block.linears[i]);
  state_.norms = std::move(block.norms);
  train_together();
  for (size_t i = 0; i < state_.linears.size(); ++i)
    block.linears[i] = std::move(*state_.linears[i].fitted);
  block.norms = std::move(state_.norms);
  return block;
}

/// `own` with the effort's numbers where it has none.
StageTraining resolved(StageTraining own, const StageTraining& effort) {
  if (own.updates < 0) own.updates = effort.updates;
  if (own.tokens < 0) own.tokens = effort.tokens;
  if (own.rate < 0) own.rate = effort.rate;
  if (own.scale_rate < 0) own.scale_rate = effort.scale_rate;
  return own;
}

}  // namespace

/// A quarter of 600,000 tokens spent on blocks, the rest on the whole model, instead of all on the
/// model: perplexity 14.7 instead of 15.4 (stories15M, 0.8 bits).
BlockSchedule block_schedule(Effort effort, const CompressStages& stages) {
  const int64_t updates = effort == Effort::kFast ? 0 : 300;
  BlockSchedule schedule;
  schedule.absorb = resolved(stages.absorb, {0, 1024, 3e-3f, 0});
  schedule.refine = resolved(stages.refine, {0, 1024, 3e-3f, 3e-3f});
  schedule.together = resolved(stages.block, {updates, 512, 2e-3f, 3e-3f});
  schedule.latent_start = 0.3f;
  return schedule;
}

FinishedBlock compress_block(const BlockRequest& request, ThreadPool& pool,
                             const BlockEvents& events) {
  return pack_block(*request.plan, *request.checkpoint, BlockStages(request, pool, events).run(),
                    request.tables);
}

}  // namespace subbit
