// A back end over the tape asks it to look at every linear's output on the way back.
#include "compress/tune/gradient_moments.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "backend/cpu/cpu_backend.h"
#include "backend/tape/tape_backend.h"
#include "compress/tune/distillation.h"
#include "compress/tune/student.h"
#include "decoding/decoder.h"

namespace subbit {
namespace {

/// Sums of squared gradients, per output.
using Sums = std::map<std::string, std::vector<double>, std::less<>>;

class GradientObserver final : public ForwardingBackend {
 public:
  explicit GradientObserver(TapeBackend& tape) : ForwardingBackend(tape), tape_(tape) {}
  const Sums& sums() const { return sums_; }

  void linear(const Linear& linear, Tensor x, Tensor y) override {
    inner_.linear(linear, x, y);
    watch(linear, y);
  }
  void linear_add(const Linear& linear, Tensor x, Tensor y) override {
    inner_.linear_add(linear, x, y);
    watch(linear, y);
  }

 private:
  void watch(const Linear& linear, Tensor y) {
    std::vector<double>& sums = sums_[linear.name];
    sums.resize(static_cast<size_t>(y.cols), 0.0);
    tape_.watch(y, [&sums](ConstMatrix gradient) {
      for (int64_t t = 0; t < gradient.rows; ++t)
        for (int64_t i = 0; i < gradient.cols; ++i)
          sums[static_cast<size_t>(i)] +=
              static_cast<double>(gradient.at(t, i)) * gradient.at(t, i);
    });
  }

  TapeBackend& tape_;
  Sums sums_;
};

/// The token that really follows each but the last, certain; columns are token ids.
TeacherTargets next_tokens(std::span<const int32_t> window) {
  TeacherTargets targets;
  targets.rows = std::ssize(window) - 1;
  targets.width = 1;
  targets.columns.assign(window.begin() + 1, window.end());
  targets.probabilities.assign(static_cast<size_t>(targets.rows), 1.0f);
  return targets;
}

/// The uncompressed model on a tape.
class Measurement {
 public:
  Measurement(const GradientRequest& request, int64_t longest, ThreadPool& pool)
      : model_(*request.model),
        pool_(pool),
        compute_(make_cpu_backend(pool)),
        // Drawn columns would be noise, which squares do not average out.
        columns_(all_columns(model_.config().vocab_size)),
        head_(*model_.find_linear(request.manifest->head)->parts[0].weight, pool),
        longest_(longest) {
    model_.prepare(longest);
    head_.choose(columns_);
    activations_ = carve_activations(model_.activation_widths(),
                                     {longest, longest, longest, KvType::kF32}, storage_);
    const ModelConfig& config = model_.config();
    keys_ = Buffer<float>(longest * config.num_key_value_heads * config.head_dim);
    values_ = Buffer<float>(keys_.size());
    tape_ = std::make_unique<TapeBackend>(*compute_, storage_.span(), pool);
    tape_->set_map(request.manifest->head, head_);
    observer_ = std::make_unique<GradientObserver>(*tape_);
  }

  void run(std::span<const int32_t> window) {
    const auto tokens = std::ssize(window);
    const TeacherTargets targets = next_tokens(window);
    model_.embed(*observer_, window, activations_);
    const KvLayer kv{KvType::kF32, keys_.data(), values_.data(), longest_};
    for (int64_t layer = 0; layer < model_.config().num_hidden_layers; ++layer)
      model_.block(*observer_, layer, {0, tokens}, kv, activations_);
    model_.head(*tape_, 0, targets.rows, activations_);
    tape_->finish();
    const Tensor logits = activations_.logits.rows_from(0, targets.rows);
    const LossGradient gradient{tape_->gradient(logits), 1.0f};
    distillation_loss(targets, columns_, logits.matrix(), &gradient, pool_);
    tape_->play_backwards();
    tokens_ += targets.rows;
  }

  GradientMoments moments() const {
    GradientMoments moments;
    for (const auto& [name, sums] : observer_->sums())
      for (const double sum : sums)
        moments[name].push_back(static_cast<float>(sum / static_cast<double>(tokens_)));
    return moments;
  }

 private:
  Model& model_;
  ThreadPool& pool_;
  std::unique_ptr<Backend> compute_;
  HeadColumns columns_;
  HeadMap head_;
  int64_t longest_;
  Buffer<float> storage_;
  Activations activations_;
  Buffer<float> keys_;
  Buffer<float> values_;
  std::unique_ptr<TapeBackend> tape_;
  std::unique_ptr<GradientObserver> observer_;
  int64_t tokens_ = 0;
};

}  // namespace

GradientMoments measure_gradients(const GradientRequest& request, ThreadPool& pool,
                                  JobControl& control) {
  const auto part_of = [&](size_t i) {
    const std::span<const int32_t> window = request.windows[i];
    return window.first(std::min(window.size(), static_cast<size_t>(kGradientTokens)));
  };
  size_t longest = 1;
  for (size_t i = 0; i < request.windows.size(); ++i)
    longest = std::max(longest, part_of(i).size());
  Measurement measurement(request, static_cast<int64_t>(longest), pool);
  const size_t count = std::min(static_cast<size_t>(request.most_windows), request.windows.size());
  bool any = false;
  for (size_t i = 0; i < count; ++i) {
    if (control.abort.load()) throw Error(ErrorCode::kAborted, "compression was aborted");
    if (control.on_progress)
      control.on_progress({"gradients", static_cast<double>(i), static_cast<double>(count), ""});
    const std::span<const int32_t> window = part_of(i * request.windows.size() / count);
    if (window.size() < 2) continue;
    measurement.run(window);
    any = true;
  }
  return any ? measurement.moments() : GradientMoments{};
}

}  // namespace subbit
