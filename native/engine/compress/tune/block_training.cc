// Windows in seeded order, Adam at a cosine's pace, and the held-out windows as judges.
#include "compress/tune/block_training.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "base/buffer.h"
#include "base/check.h"
#include "base/rng.h"
#include "compress/tune/pace.h"

namespace subbit {
namespace {

constexpr size_t kHeldOutPart = 20;  // one window in so many
constexpr size_t kMostHeldOut = 16;
constexpr int64_t kEvaluations = 4;
/// Where there is no text to hold out, so many windows of the training text judge.
constexpr size_t kFewWindows = 4;

class Training {
 public:
  Training(const BlockPlace& place, BlockState state, const BlockData& data,
           const BlockPhase& phase, ThreadPool& pool);
  BlockState run(const PhaseStep& step, PhaseErrors* errors);

 private:
  double run_window(size_t window, BlockStudent::Pass pass, float scale);
  size_t next_window();
  double update();
  double judge();

  const BlockData& data_;
  const BlockPhase& phase_;
  ThreadPool& pool_;
  Rng rng_;
  Pace pace_;
  BlockStudent student_;
  Buffer<float> input_;
  Buffer<float> target_;
  size_t training_ = 0;  // windows before this one are trained on
  std::vector<size_t> order_;
  size_t next_ = 0;
};

Training::Training(const BlockPlace& place, BlockState state, const BlockData& data,
                   const BlockPhase& phase, ThreadPool& pool)
    : data_(data),
      phase_(phase),
      pool_(pool),
      rng_(phase.seed),
      pace_(phase.updates),
      student_(place, std::move(state), phase.latent_start, pool),
      input_(data.inputs->longest() * data.inputs->width()),
      target_(input_.size()) {
  const size_t windows = data.inputs->windows();
  CHECK(windows > 0 && data.targets->windows() == windows);
  training_ = windows - std::min(kMostHeldOut, windows / kHeldOutPart);
}

double Training::run_window(size_t window, BlockStudent::Pass pass, float scale) {
  const Matrix input(input_.data(), data_.inputs->length(window), data_.inputs->width());
  const Matrix target(target_.data(), input.rows, input.cols);
  data_.inputs->read(window, input, pool_);
  data_.targets->read(window, target, pool_);
  return student_.run(input, target, data_.weights, pass, scale);
}

size_t Training::next_window() {
  if (next_ == order_.size()) {
    order_.resize(training_);
    for (size_t i = 0; i < training_; ++i) order_[i] = i;
    for (size_t i = training_; i > 1; --i)
      std::swap(order_[i - 1],
                order_[static_cast<size_t>(rng_.uniform() * static_cast<double>(i))]);
    next_ = 0;
  }
  return order_[next_++];
}

double Training::update() {
  std::vector<size_t> batch;
  int64_t tokens = 0;
  while (tokens < phase_.tokens_per_update && batch.size() < training_) {
    batch.push_back(next_window());
    tokens += data_.inputs->length(batch.back());
  }
  double error = 0.0;
  for (const size_t window : batch) {
    error += run_window(window, BlockStudent::Pass::kForwardAndBackward,
                        1.0f / static_cast<float>(tokens));
  }
  if (const std::optional<Pace::Step> step = pace_.next(student_.finish_gradients())) {
    BlockRates rates = phase_.rates;
    rates.dense *= step->share;
    rates.latents *= step->share;
    rates.scales *= step->share;
    student_.step(step->adam, rates);
  } else {
    student_.drop_gradients();
  }
  return error / static_cast<double>(tokens);
}

double Training::judge() {
  const size_t windows = data_.inputs->windows();
  const size_t first = training_ < windows ? training_ : 0;
  const size_t end = training_ < windows ? windows : std::min(windows, kFewWindows);
  double error = 0.0;
  double size = 0.0;
  const std::vector<float> zeros(static_cast<size_t>(target_.size()), 0.0f);
  for (size_t window = first; window < end; ++window) {
    error += run_window(window, BlockStudent::Pass::kForward, 0.0f);
    const ConstMatrix target(target_.data(), data_.inputs->length(window), data_.inputs->width());
    size += weighted_error({zeros.data(), target.rows, target.cols}, target, data_.weights, nullptr,
                           pool_);
  }
  return size > 0.0 ? error / size : error;
}

BlockState Training::run(const PhaseStep& step, PhaseErrors* errors) {
  double best_error = judge();
  if (errors != nullptr) errors->before = best_error;
  BlockState best = student_.state();
  const int64_t between = std::max<int64_t>(1, phase_.updates / kEvaluations);
  double error = best_error;
  for (int64_t i = 0; i < phase_.updates; ++i) {
    step(i, error);
    update();
    if ((i + 1) % between != 0 && i + 1 != phase_.updates) continue;
    error = judge();
    if (!(error < best_error)) continue;
    best_error = error;
    best = student_.state();
  }
  if (errors != nullptr) errors->after = best_error;
  return best;
}

}  // namespace

std::vector<float> inverse_variances(const HiddenStates& states, ThreadPool& pool) {
  const auto width = static_cast<size_t>(states.width());
  std::vector<double> sums(width, 0.0);
  std::vector<double> squares(width, 0.0);
  Buffer<float> values(states.longest() * states.width());
  for (size_t window = 0; window < states.windows(); ++window) {
    const Matrix rows(values.data(), states.length(window), states.width());
    states.read(window, rows, pool);
    for (int64_t t = 0; t < rows.rows; ++t) {
      for (size_t c = 0; c < width; ++c) {
        const double value = rows.row(t)[c];
        sums[c] += value;
        squares[c] += value * value;
      }
    }
  }
  const auto tokens = static_cast<double>(states.tokens());
  std::vector<double> variances(width);
  double mean = 0.0;
  for (size_t c = 0; c < width; ++c) {
    variances[c] = squares[c] / tokens - sums[c] * sums[c] / (tokens * tokens);
    mean += variances[c] / static_cast<double>(width);
  }
  // A channel that hardly varies is damped: a tenth of the mean is added to all.
  double total = 0.0;
  std::vector<float> weights(width, 1.0f);
  if (!(mean > 0.0) || !std::isfinite(mean)) return weights;
  for (double& variance : variances) {
    variance = 1.0 / (std::max(variance, 0.0) + 0.1 * mean);
    total += variance;
  }
  for (size_t c = 0; c < width; ++c)
    weights[c] = static_cast<float>(variances[c] * static_cast<double>(width) / total);
  return weights;
}

BlockState train_block(const BlockPlace& place, BlockState state, const BlockData& data,
                       const BlockPhase& phase, ThreadPool& pool, const PhaseStep& step,
                       PhaseErrors* errors) {
  return Training(place, std::move(state), data, phase, pool).run(step, errors);
}

}  // namespace subbit
