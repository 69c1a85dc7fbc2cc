// Windows are independent sequences, so one window's activations and one layer's keys and values
// serve them all in turn.
#include "compress/calibrate.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "compress/observing_backend.h"

namespace subbit {
namespace {

constexpr size_t kWindowsPerEvent = 8;

void check_windows(std::span<const std::vector<int32_t>> windows, const ModelConfig& config) {
  const auto refuse = [](const std::string& what, const std::string& expected,
                         const std::string& actual) {
    throw Error(ErrorCode::kInvalidOption, what,
                {{"option", "calibration"}, {"expected", expected}, {"actual", actual}});
  };
  if (windows.empty()) refuse("no calibration text", "at least one window of tokens", "none");
  for (const std::vector<int32_t>& window : windows) {
    const auto tokens = static_cast<int64_t>(window.size());
    if (tokens < 1 || tokens > config.max_position_embeddings) {
      refuse("a calibration window has a wrong length",
             "1 to " + std::to_string(config.max_position_embeddings) + " tokens",
             std::to_string(tokens));
    }
    for (const int32_t id : window) {
      if (id >= 0 && id < config.vocab_size) continue;
      refuse("a calibration token is not in the vocabulary",
             "0 to " + std::to_string(config.vocab_size - 1), std::to_string(id));
    }
  }
}

void check_abort(const JobControl& control) {
  if (control.abort.load()) throw Error(ErrorCode::kAborted, "compression was aborted");
}

std::vector<int64_t> lengths_of(const CalibrationRequest& request) {
  check_windows(request.windows, request.model->config());
  std::vector<int64_t> lengths;
  for (const std::vector<int32_t>& window : request.windows)
    lengths.push_back(static_cast<int64_t>(window.size()));
  return lengths;
}

}  // namespace

CalibrationStream::CalibrationStream(const CalibrationRequest& request, Backend& backend,
                                     ThreadPool& pool)
    : model_(*request.model),
      backend_(backend),
      pool_(pool),
      compressed_(lengths_of(request), model_.config().hidden_size) {
  const ModelConfig& config = model_.config();
  const ActivationWidths widths = model_.activation_widths();
  const int64_t longest = compressed_.longest();
  scratch_ = Buffer<float>(longest * (2 * widths.hidden + 1 + widths.wide + widths.mixed));
  const int64_t kv_size = longest * config.num_key_value_heads * config.head_dim;
  keys_ = Buffer<float>(kv_size);
  values_ = Buffer<float>(kv_size);
  model_.prepare(longest);
  if (request.teacher == TeacherStream::kKept)
    teacher_.emplace(lengths_of(request), config.hidden_size);
  for (size_t i = 0; i < request.windows.size(); ++i) {
    const std::vector<int32_t>& window = request.windows[i];
    Activations a = activations_for(std::ssize(window));
    backend_.embed(*request.embedding, window, a.h);
    backend_.finish();
    compressed_.write(i, a.h.matrix(), pool_);
    if (!teacher_.has_value()) continue;
    model_.embed(backend_, window, a);
    backend_.finish();
    teacher_->write(i, a.h.matrix(), pool_);
  }
}

const HiddenStates& CalibrationStream::teacher() const {
  CHECK(teacher_.has_value());
  return *teacher_;
}

Activations CalibrationStream::activations_for(int64_t tokens) {
  const ActivationWidths widths = model_.activation_widths();
  const int64_t longest = compressed_.longest();
  float* next = scratch_.data();
  const auto carve = [&](int64_t width) {
    const Tensor tensor{next, tokens, width, width, nullptr};
    next += longest * width;
    return tensor;
  };
  Activations a;
  a.h = carve(widths.hidden);
  a.normed = carve(widths.hidden);
  a.wide = carve(widths.wide);
  a.mixed = carve(widths.mixed);
  a.normed.row_scale = carve(1).data;
  return a;
}

Activations CalibrationStream::run(int64_t index, const HiddenStates& states, size_t window,
                                   Backend& backend) {
  const int64_t tokens = states.length(window);
  Activations a = activations_for(tokens);
  states.read(window, a.h.matrix(), pool_);
  const KvLayer kv{KvType::kF32, keys_.data(), values_.data(), states.longest()};
  model_.block(backend, index, {0, tokens}, kv, a);
  backend.finish();
  return a;
}

void CalibrationStream::report(int64_t index, size_t window, JobControl& control) const {
  check_abort(control);
  if (!control.on_progress || window % kWindowsPerEvent != 0) return;
  const double blocks = static_cast<double>(model_.config().num_hidden_layers);
  const double done = static_cast<double>(window) / static_cast<double>(compressed_.windows());
  control.on_progress(
      {"calibrate", static_cast<double>(index) + done, blocks, "block " + std::to_string(index)});
}

InputObservations CalibrationStream::observe(int64_t index,
                                             const std::set<std::string>& covariances,
                                             JobControl& control) {
  ObservingBackend observer(backend_, covariances, pool_);
  for (size_t i = 0; i < compressed_.windows(); ++i) {
    report(index, i, control);
    run(index, compressed_, i, observer);
  }
  InputObservations result;
  for (const auto& [name, squares] : observer.squares()) {
    std::vector<float>& mean = result.moments[name];
    for (const double sum : squares.sums) {
      mean.push_back(static_cast<float>(sum / static_cast<double>(squares.tokens)));
      if (!std::isfinite(mean.back()))
        throw Error(ErrorCode::kNonFinite, "the calibration text overflows the input of " + name,
                    {{"tensor", name}});
    }
  }
  result.covariances = observer.take_covariances();
  return result;
}

void CalibrationStream::advance_teacher(int64_t index, JobControl& control) {
  if (!teacher_.has_value()) return;
  for (size_t i = 0; i < teacher_->windows(); ++i) {
    check_abort(control);
    teacher_->write(i, run(index, *teacher_, i, backend_).h.matrix(), pool_);
  }
}

void CalibrationStream::advance(int64_t index, JobControl& control) {
  for (size_t i = 0; i < compressed_.windows(); ++i) {
    check_abort(control);
    compressed_.write(i, run(index, compressed_, i, backend_).h.matrix(), pool_);
  }
}

}  // namespace subbit
