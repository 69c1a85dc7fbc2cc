// The loop. Which windows a step sees, which columns stand for the rest of the vocabulary and when
// the held-out text is read all come from the seed and the schedule.
#include "compress/tune/tune.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iterator>
#include <numbers>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/rng.h"
#include "compress/tune/student.h"
#include "compress/tune/teacher.h"

namespace subbit {
namespace {

constexpr int64_t kWarmupSteps = 10;
constexpr int64_t kEvaluations = 10;
constexpr size_t kHeldOutPart = 20;  // one window in so many
constexpr size_t kMostHeldOut = 16;
/// A step whose gradient is this many times the running mean is shortened.
constexpr double kClip = 2.0;
constexpr int kMostBadSteps = 10;

/// The farthest latent starts a hundred steps' travel from zero, the others evenly in between, so
/// that every step turns a few signs. All at one distance turn together: 10 steps after a start at
/// 0.01 the divergence rose from 4.7 to 11; from 0.05 it reached 3.9 in 30 steps, spread over 0.3
/// it reached 2.6 in 15.
constexpr float kRate = 3e-3f;
constexpr float kSpread = 0.3f;

class Tuning {
 public:
  Tuning(const TuneRequest& request, FittedModel fitted, ThreadPool& pool, JobControl& control);
  FittedModel run();

 private:
  void split_windows();
  void add_teacher_text();
  TrainingWindow& next_window();
  double run_passes(std::span<const Lesson> lessons, Student::Pass pass, float scale);
  double train_step(int64_t step);
  void update(int64_t step);
  double held_out_loss();
  void keep_if_best(int64_t step);
  void check_abort() const;

  const TuneRequest& request_;
  JobControl& control_;
  int64_t vocab_;
  Rng rng_;
  Teacher teacher_;
  Student student_;
  std::vector<TrainingWindow> training_;
  std::vector<TrainingWindow> held_out_;
  std::vector<size_t> order_;
  size_t next_ = 0;
  double mean_norm_ = 0.0;
  int64_t updates_ = 0;
  int bad_steps_ = 0;
  double best_loss_ = 0.0;
  FittedModel best_;
};

int64_t longest(std::span<const std::vector<int32_t>> windows) {
  size_t result = 1;
  for (const std::vector<int32_t>& window : windows) result = std::max(result, window.size());
  return static_cast<int64_t>(result);
}

Tuning::Tuning(const TuneRequest& request, FittedModel fitted, ThreadPool& pool,
               JobControl& control)
    : request_(request),
      control_(control),
      vocab_(request.teacher->config().vocab_size),
      rng_(request.seed),
      teacher_(*request.teacher, longest(request.windows), pool),
      student_({request.manifest, request.student, longest(request.windows),
                request.schedule.latent_start},
               std::move(fitted), pool) {}

void Tuning::check_abort() const {
  if (control_.abort.load()) throw Error(ErrorCode::kAborted, "compression was aborted");
}

/// The last windows are held out: neighbours in the text would know each other. Where they are too
/// few, text of the teacher's making is.
void Tuning::split_windows() {
  const size_t count = request_.windows.size();
  const size_t held = std::min(kMostHeldOut, count / kHeldOutPart);
  for (size_t i = 0; i < count; ++i)
    (i + held < count ? training_ : held_out_).push_back({request_.windows[i], {}});
}

void Tuning::add_teacher_text() {
  const int64_t length = longest(request_.windows);
  const int64_t windows = request_.schedule.teacher_tokens / length;
  if (windows == 0 || length < 2) return;
  const TeacherText text{windows, length, request_.windows[0][0], rng_.next()};
  for (TrainingWindow& window : teacher_.write(text, [&](int64_t tokens) {
         check_abort();
         if (control_.on_progress) {
           control_.on_progress(
               {"sample", static_cast<double>(tokens), static_cast<double>(windows * length), ""});
         }
       }))
    training_.push_back(std::move(window));
  if (!held_out_.empty()) return;
  const auto held = static_cast<int64_t>(training_.size() / kHeldOutPart);
  held_out_.assign(std::make_move_iterator(training_.end() - held),
                   std::make_move_iterator(training_.end()));
  training_.resize(training_.size() - static_cast<size_t>(held));
}

/// Every window once, in another order each time round. The teacher reads it when first met.
TrainingWindow& Tuning::next_window() {
  if (next_ == order_.size()) {
    order_.resize(training_.size());
    for (size_t i = 0; i < order_.size(); ++i) order_[i] = i;
    for (size_t i = order_.size(); i > 1; --i)
      std::swap(order_[i - 1],
                order_[static_cast<size_t>(rng_.uniform() * static_cast<double>(i))]);
    next_ = 0;
  }
  TrainingWindow& window = training_[order_[next_++]];
  if (window.targets.rows == 0) window.targets = teacher_.targets(window.tokens);
  return window;
}

double Tuning::run_passes(std::span<const Lesson> lessons, Student::Pass pass, float scale) {
  double loss = 0.0;
  while (!lessons.empty()) {
    check_abort();
    const size_t count = student_.lessons_in_a_pass(lessons);
    loss += student_.run(lessons.first(count), pass, scale);
    lessons = lessons.subspan(count);
  }
  return loss;
}

double Tuning::train_step(int64_t step) {
  std::vector<TrainingWindow*> batch;
  int64_t tokens = 0;
  while (tokens < request_.schedule.tokens_per_step && batch.size() < training_.size()) {
    batch.push_back(&next_window());
    tokens += batch.back()->targets.rows;
  }
  std::vector<Lesson> lessons;
  for (const TrainingWindow* window : batch) {
    lessons.push_back(
        {window->tokens, &window->targets, choose_columns(window->targets, vocab_, rng_)});
  }
  const double loss =
      run_passes(lessons, Student::Pass::kForwardAndBackward, 1.0f / static_cast<float>(tokens));
  update(step);
  return loss / static_cast<double>(tokens);
}

void Tuning::update(int64_t step) {
  const double norm = student_.finish_gradients();
  if (!std::isfinite(norm)) {
    if (++bad_steps_ == kMostBadSteps)
      throw Error(ErrorCode::kNonFinite, "the gradients of the tuning are not finite");
    return student_.drop_gradients();
  }
  bad_steps_ = 0;
  const double most = updates_ == 0 ? norm : kClip * mean_norm_;
  mean_norm_ = updates_ == 0 ? norm : 0.95 * mean_norm_ + 0.05 * std::min(norm, most);
  ++updates_;
  AdamStep adam;
  adam.gradient_scale = norm > most ? static_cast<float>(most / norm) : 1.0f;
  const auto t = static_cast<double>(updates_);
  adam.correction1 = static_cast<float>(1.0 / (1.0 - std::pow(double{adam.beta1}, t)));
  adam.correction2 = static_cast<float>(1.0 / (1.0 - std::pow(double{adam.beta2}, t)));
  const double done = static_cast<double>(step) / static_cast<double>(request_.schedule.steps);
  const double warm =
      std::min(1.0, static_cast<double>(step + 1) / static_cast<double>(kWarmupSteps));
  const auto share = static_cast<float>(warm * 0.5 * (1.0 + std::cos(std::numbers::pi * done)));
  student_.step(adam,
                {request_.schedule.latent_rate * share, request_.schedule.scale_rate * share});
}

double Tuning::held_out_loss() {
  std::vector<Lesson> lessons;
  int64_t tokens = 0;
  Rng fixed(request_.seed);  // the same columns every time
  for (TrainingWindow& window : held_out_) {
    check_abort();
    if (window.targets.rows == 0) window.targets = teacher_.targets(window.tokens);
    lessons.push_back(
        {window.tokens, &window.targets, choose_columns(window.targets, vocab_, fixed)});
    tokens += window.targets.rows;
  }
  return run_passes(lessons, Student::Pass::kForward, 0.0f) / static_cast<double>(tokens);
}

void Tuning::keep_if_best(int64_t step) {
  const bool last = step == request_.schedule.steps;
  if (held_out_.empty()) {
    if (last) best_ = student_.fitted();
    return;
  }
  const double loss = held_out_loss();
  if (control_.on_progress) {
    char detail[48];
    std::snprintf(detail, sizeof detail, "held-out KL %.4f", loss);
    control_.on_progress(
        {"tune", static_cast<double>(step), static_cast<double>(request_.schedule.steps), detail});
  }
  if (!best_.blocks.empty() && !(loss < best_loss_)) return;
  best_loss_ = loss;
  best_ = student_.fitted();
}

FittedModel Tuning::run() {
  split_windows();
  add_teacher_text();
  keep_if_best(0);
  const int64_t steps = request_.schedule.steps;
  const int64_t between = std::max<int64_t>(1, steps / kEvaluations);
  for (int64_t step = 0; step < steps; ++step) {
    const double loss = train_step(step);
    if (control_.on_progress) {
      char detail[32];
      std::snprintf(detail, sizeof detail, "KL %.4f", loss);
      control_.on_progress(
          {"tune", static_cast<double>(step + 1), static_cast<double>(steps), detail});
    }
    if ((step + 1) % between == 0 || step + 1 == steps) keep_if_best(step + 1);
  }
  return std::move(best_);
}

}  // namespace

/// Steps are what a machine with two cores does in the time the effort allows on a model of 15
/// million parameters (about 1.3 s for 2,048 tokens); a larger model gets as many and takes longer.
TuneSchedule tune_schedule(Effort effort) {
  switch (effort) {
    case Effort::kFast:
      return {40, 1024, 24'000, kRate, kRate, kSpread};
    case Effort::kBalanced:
      return {600, 2048, 130'000, kRate, kRate, kSpread};
    case Effort::kMax:
      return {6000, 2048, 1'000'000, kRate, kRate, kSpread};
  }
  return {};
}

FittedModel tune(const TuneRequest& request, FittedModel fitted, ThreadPool& pool,
                 JobControl& control) {
  CHECK(request.teacher != nullptr && request.student != nullptr);
  if (request.schedule.steps == 0) return fitted;
  return Tuning(request, std::move(fitted), pool, control).run();
}

}  // namespace subbit
