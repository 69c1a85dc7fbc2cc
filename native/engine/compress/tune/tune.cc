// The loop. Which windows a step sees, which columns stand for the rest of the vocabulary and when
// the held-out text is read and the state saved all come from the seed and the schedule.
#include "compress/tune/tune.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iterator>
#include <numbers>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/process.h"
#include "base/rng.h"
#include "compress/tune/saved_state.h"
#include "compress/tune/saved_text.h"
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
constexpr float kRate = 2e-3f;
constexpr float kFewStepsRate = 3e-3f;
constexpr float kSpread = 0.3f;
constexpr float kEndRate = 0.1f;

/// Where a tuning is, beside the student's parameters and the best of them.
struct Place {
  int64_t steps = 0;  // done
  Rng rng{0};
  Rng rng_of_order{0};  // as it was when the windows were last put in order
  uint64_t next = 0;    // window of the order
  double mean_norm = 0.0;
  int64_t updates = 0;
  int64_t bad_steps = 0;
  double best_loss = 0.0;
};

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
  void report(int64_t step, const std::string& detail) const;

  std::string state_key() const;
  std::string state_path(const char* name) const;
  StateArrays state();
  void save();
  int64_t continue_from_state();

  const TuneRequest& request_;
  JobControl& control_;
  int64_t vocab_;
  Teacher teacher_;
  Student student_;
  std::vector<TrainingWindow> training_;
  std::vector<TrainingWindow> held_out_;
  std::vector<size_t> order_;
  Place place_;
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
      teacher_(*request.teacher, longest(request.windows), pool),
      student_({request.manifest, request.student, longest(request.windows),
                request.schedule.latent_start, request.ends},
               std::move(fitted), pool) {
  place_.rng = Rng(request.seed);
}

void Tuning::check_abort() const {
  if (control_.abort.load()) throw Error(ErrorCode::kAborted, "compression was aborted");
}

void Tuning::report(int64_t step, const std::string& detail) const {
  if (!control_.on_progress) return;
  control_.on_progress(
      {"tune", static_cast<double>(step), static_cast<double>(request_.schedule.steps), detail});
}

/// The last windows are held out: neighbours in the text would know each other. Where they are too
/// few, text of the teacher's making is.
void Tuning::split_windows() {
  const size_t count = request_.windows.size();
  const size_t held = held_out_windows(count);
  for (size_t i = 0; i < count; ++i)
    (i + held < count ? training_ : held_out_).push_back({request_.windows[i], {}});
}

void Tuning::add_teacher_text() {
  const int64_t length = longest(request_.windows);
  const int64_t windows = request_.schedule.teacher_tokens / length;
  if (windows == 0 || length < 2) return;
  const TeacherText text{windows, length, request_.windows[0][0], place_.rng.next()};
  const TextShape shape{windows, length, vocab_};
  const std::string path = state_path("text");
  std::vector<TrainingWindow> written;
  if (path.empty() || load_text(path, state_key(), shape, written) != StateFound::kLoaded) {
    written = teacher_.write(text, [&](int64_t tokens) {
      check_abort();
      if (control_.on_progress) {
        control_.on_progress(
            {"sample", static_cast<double>(tokens), static_cast<double>(windows * length), ""});
      }
    });
    release_free_heap();  // of keys and values: the student's passes come next
    if (!path.empty()) save_text(path, state_key(), shape, written);
  }
  training_.insert(training_.end(), std::make_move_iterator(written.begin()),
                   std::make_move_iterator(written.end()));
  if (!held_out_.empty()) return;
  const auto held = static_cast<int64_t>(training_.size() / kHeldOutPart);
  held_out_.assign(std::make_move_iterator(training_.end() - held),
                   std::make_move_iterator(training_.end()));
  training_.resize(training_.size() - static_cast<size_t>(held));
}

/// Every window once, in another order each time round.
std::vector<size_t> shuffled(size_t count, Rng& rng) {
  std::vector<size_t> order(count);
  for (size_t i = 0; i < count; ++i) order[i] = i;
  for (size_t i = count; i > 1; --i)
    std::swap(order[i - 1], order[static_cast<size_t>(rng.uniform() * static_cast<double>(i))]);
  return order;
}

/// The teacher reads a window when it is first met.
TrainingWindow& Tuning::next_window() {
  if (place_.next == order_.size()) {
    place_.rng_of_order = place_.rng;
    order_ = shuffled(training_.size(), place_.rng);
    place_.next = 0;
  }
  TrainingWindow& window = training_[order_[place_.next++]];
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
        {window->tokens, &window->targets, choose_columns(window->targets, vocab_, place_.rng)});
  }
  const double loss =
      run_passes(lessons, Student::Pass::kForwardAndBackward, 1.0f / static_cast<float>(tokens));
  update(step);
  return loss / static_cast<double>(tokens);
}

void Tuning::update(int64_t step) {
  const double norm = student_.finish_gradients();
  if (!std::isfinite(norm)) {
    if (++place_.bad_steps == kMostBadSteps)
      throw Error(ErrorCode::kNonFinite, "the gradients of the tuning are not finite");
    return student_.drop_gradients();
  }
  place_.bad_steps = 0;
  const double most = place_.updates == 0 ? norm : kClip * place_.mean_norm;
  place_.mean_norm =
      place_.updates == 0 ? norm : 0.95 * place_.mean_norm + 0.05 * std::min(norm, most);
  ++place_.updates;
  AdamStep adam;
  adam.gradient_scale = norm > most ? static_cast<float>(most / norm) : 1.0f;
  const auto t = static_cast<double>(place_.updates);
  adam.correction1 = static_cast<float>(1.0 / (1.0 - std::pow(double{adam.beta1}, t)));
  adam.correction2 = static_cast<float>(1.0 / (1.0 - std::pow(double{adam.beta2}, t)));
  const double done = static_cast<double>(step) / static_cast<double>(request_.schedule.steps);
  const double warm =
      std::min(1.0, static_cast<double>(step + 1) / static_cast<double>(kWarmupSteps));
  const auto share = static_cast<float>(warm * 0.5 * (1.0 + std::cos(std::numbers::pi * done)));
  student_.step(adam, {request_.schedule.latent_rate * share, request_.schedule.scale_rate * share,
                       request_.schedule.end_rate * share});
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
  char detail[48];
  std::snprintf(detail, sizeof detail, "held-out KL %.4f", loss);
  report(step, detail);
  if (!best_.blocks.empty() && !(loss < place_.best_loss)) return;
  place_.best_loss = loss;
  best_ = student_.fitted();
}

/// What the state must have been made by. Windows count too, but the directory is theirs already.
std::string Tuning::state_key() const {
  const TuneSchedule& schedule = request_.schedule;
  char rates[128];
  std::snprintf(rates, sizeof rates, "%a %a %a %a", static_cast<double>(schedule.latent_rate),
                static_cast<double>(schedule.scale_rate),
                static_cast<double>(schedule.latent_start), static_cast<double>(schedule.end_rate));
  std::string key = rates;
  for (const int64_t number : {schedule.steps, schedule.tokens_per_step, schedule.teacher_tokens,
                               int64_t{std::ssize(request_.windows)}, longest(request_.windows)})
    key.append(" ").append(std::to_string(number));
  return key.append(" seed ").append(std::to_string(request_.seed));
}

/// Empty where nothing is saved.
std::string Tuning::state_path(const char* name) const {
  if (request_.state_directory.empty()) return {};
  return request_.state_directory + "/tuning-" + name + ".safetensors";
}

void list_state(FittedLinear& linear, const std::string& name, StateArrays& state) {
  if (auto* factored = std::get_if<FactoredFit>(&linear.fit)) {
    state.add(name + ".u", factored->u.bits);
    state.add(name + ".v", factored->v.bits);
  } else {
    auto& coded = std::get<CodedFit>(linear.fit);
    for (size_t t = 0; t < coded.terms.size(); ++t) {
      const std::string term = (name + ".term.").append(std::to_string(t));
      state.add_one(term + ".gain", coded.terms[t].gain);
      state.add(term + ".codes", coded.terms[t].codes);
    }
  }
  state.add(name + ".s_post", linear.s_post());
  state.add(name + ".s_pre", linear.s_pre());
  state.add(name + ".bias", linear.bias);
}

void list_state(FittedModel& fitted, StateArrays& state) {
  for (FittedBlock& block : fitted.blocks) {
    for (FittedLinear& linear : block.linears) list_state(linear, "best." + linear.name, state);
    for (FittedNorm& norm : block.norms) state.add("best." + norm.name, norm.values);
  }
  for (size_t t = 0; t < fitted.tables.size(); ++t)
    state.add("best.table." + std::to_string(t), fitted.tables[t].entries);
  for (size_t e = 0; e < fitted.ends.size(); ++e)
    state.add("best.end." + std::to_string(e), fitted.ends[e]);
}

StateArrays Tuning::state() {
  StateArrays state;
  state.add_one("place", place_);
  student_.list_state(state);
  list_state(best_, state);
  return state;
}

void Tuning::save() { save_state(state_path("state"), state_key(), state()); }

/// Returns how many steps are done already.
int64_t Tuning::continue_from_state() {
  const std::string path = state_path("state");
  if (path.empty()) return 0;
  if (!held_out_.empty()) best_ = student_.fitted();  // arrays of the right sizes
  switch (load_state(path, state_key(), state())) {
    case StateFound::kNone:
      best_ = {};
      return 0;
    case StateFound::kUnreadable:
      best_ = {};
      report(0, "the saved state cannot be read: starting over");
      return 0;
    case StateFound::kLoaded:
      break;
  }
  student_.state_is_back();
  Rng rng = place_.rng_of_order;
  order_ = shuffled(training_.size(), rng);
  CHECK(place_.next <= order_.size());
  CHECK(place_.steps > 0 && place_.steps <= request_.schedule.steps);
  report(place_.steps, "continued from the saved state");
  return place_.steps;
}

FittedModel Tuning::run() {
  split_windows();
  add_teacher_text();
  const int64_t done = continue_from_state();
  if (done == 0) keep_if_best(0);
  const int64_t steps = request_.schedule.steps;
  const int64_t between = std::max<int64_t>(1, steps / kEvaluations);
  for (int64_t step = done; step < steps; ++step) {
    const double loss = train_step(step);
    place_.steps = step + 1;
    char detail[32];
    std::snprintf(detail, sizeof detail, "KL %.4f", loss);
    report(step + 1, detail);
    if ((step + 1) % between == 0 || step + 1 == steps) keep_if_best(step + 1);
    if ((step + 1) % request_.schedule.steps_between_states == 0 &&
        !request_.state_directory.empty())
      save();
  }
  return std::move(best_);
}

}  // namespace

size_t held_out_windows(size_t windows) { return std::min(kMostHeldOut, windows / kHeldOutPart); }

/// Many small steps: of 600,000 tokens (stories15M, 0.8 bits) 300 steps of 2,048 leave a held-out
/// divergence of 1.30, 600 of 1,024 1.18, 1,200 of 512 at two thirds of the rate 1.16, in the same
/// time; at 1,024 twice the rate changes nothing. A step of 512 takes 0.11 s on one core, a token
/// of the teacher's 0.5 ms. A larger model gets as many steps and takes longer.
TuneSchedule tune_schedule(Effort effort) {
  switch (effort) {
    case Effort::kFast:
      return {80, 512, 24'000, kFewStepsRate, kFewStepsRate, kSpread, kEndRate, 10};
    case Effort::kBalanced:
      return {4000, 512, 200'000, kRate, kRate, kSpread, kEndRate};
    case Effort::kMax:
      return {24'000, 512, 2'000'000, kRate, kRate, kSpread, kEndRate};
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
