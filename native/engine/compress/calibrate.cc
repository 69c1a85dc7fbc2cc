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

}  // namespace

CalibrationStream::CalibrationStream(Model& model, Backend& backend,
                                     std::span<const std::vector<int32_t>> windows)
    : model_(model), backend_(backend), hidden_size_(model.config().hidden_size) {
  const ModelConfig& config = model.config();
  check_windows(windows, config);
  int64_t tokens = 0;
  for (const std::vector<int32_t>& window : windows) {
    const auto length = static_cast<int64_t>(window.size());
    windows_.push_back({tokens, length});
    tokens += length;
    longest_ = std::max(longest_, length);
  }
  const ActivationWidths widths = model.activation_widths();
  hidden_ = Buffer<float>(tokens * hidden_size_);
  scratch_ = Buffer<float>(longest_ * (2 * hidden_size_ + 1 + widths.wide + widths.mixed));
  const int64_t kv_size = longest_ * config.num_key_value_heads * config.head_dim;
  keys_ = Buffer<float>(kv_size);
  values_ = Buffer<float>(kv_size);

  model.prepare(longest_);
  for (size_t i = 0; i < windows_.size(); ++i) {
    Activations a = activations_for(windows_[i], hidden_.data() + windows_[i].first * hidden_size_);
    model.embed(backend, windows[i], a);
  }
  backend.finish();
}

Activations CalibrationStream::activations_for(const Window& window, float* hidden) {
  const ActivationWidths widths = model_.activation_widths();
  float* next = scratch_.data() + longest_ * hidden_size_;
  const auto carve = [&](int64_t width) {
    const Tensor tensor{next, window.tokens, width, width, nullptr};
    next += longest_ * width;
    return tensor;
  };
  Activations a;
  a.h = {hidden, window.tokens, hidden_size_, hidden_size_, nullptr};
  a.normed = carve(hidden_size_);
  a.wide = carve(widths.wide);
  a.mixed = carve(widths.mixed);
  a.normed.row_scale = carve(1).data;
  return a;
}

void CalibrationStream::run(int64_t index, const Window& window, Backend& backend, float* hidden) {
  Activations a = activations_for(window, hidden);
  const KvLayer kv{KvType::kF32, keys_.data(), values_.data(), longest_};
  model_.block(backend, index, {0, window.tokens}, kv, a);
  backend.finish();
}

void CalibrationStream::report(int64_t index, size_t window, JobControl& control) const {
  check_abort(control);
  if (!control.on_progress || window % kWindowsPerEvent != 0) return;
  const double blocks = static_cast<double>(model_.config().num_hidden_layers);
  const double done = static_cast<double>(window) / static_cast<double>(windows_.size());
  control.on_progress(
      {"calibrate", static_cast<double>(index) + done, blocks, "block " + std::to_string(index)});
}

InputMoments CalibrationStream::observe(int64_t index, JobControl& control) {
  ObservingBackend observer(backend_);
  for (size_t i = 0; i < windows_.size(); ++i) {
    report(index, i, control);
    const Window& window = windows_[i];
    std::copy_n(hidden_.data() + window.first * hidden_size_, window.tokens * hidden_size_,
                scratch_.data());
    run(index, window, observer, scratch_.data());
  }
  InputMoments moments;
  for (const auto& [name, squares] : observer.squares()) {
    std::vector<float>& mean = moments[name];
    for (const double sum : squares.sums) {
      mean.push_back(static_cast<float>(sum / static_cast<double>(squares.tokens)));
      if (!std::isfinite(mean.back()))
        throw Error(ErrorCode::kNonFinite, "the calibration text overflows the input of " + name,
                    {{"tensor", name}});
    }
  }
  return moments;
}

void CalibrationStream::advance(int64_t index, JobControl& control) {
  for (const Window& window : windows_) {
    check_abort(control);
    run(index, window, backend_, hidden_.data() + window.first * hidden_size_);
  }
}

}  // namespace subbit
