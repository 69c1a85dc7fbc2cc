// A pass: some windows side by side through the blocks, then each through the head.
#include "compress/tune/student.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "backend/cpu/cpu_backend.h"
#include "base/check.h"
#include "decoding/decoder.h"
#include "formats/registry.h"
#include "linalg/gemm.h"

namespace subbit {
namespace {

/// What a tape may grow to unless a single window needs more.
constexpr int64_t kTapeBytes = int64_t{512} << 20;
/// With 256 rows a step took half as long again, with 1024 and 2048 as long.
constexpr int64_t kMostRows = 512;

int64_t rows_of_a_pass(const Model& model, int64_t longest_window) {
  const ActivationWidths widths = model.activation_widths();
  // What the operations of a block save (tape_backend.h), about.
  const int64_t floats = 4 * widths.hidden + 2 * widths.wide + 2 * widths.mixed;
  const int64_t bytes = 4 * floats * model.config().num_hidden_layers;
  return std::max(longest_window, std::min(kMostRows, kTapeBytes / bytes));
}

}  // namespace

void HeadMap::choose(const HeadColumns& columns) {
  const std::vector<int32_t>& tokens = columns.tokens;
  const int64_t cols = weight_.shape().cols;
  rows_ = std::ssize(tokens);
  if (values_.size() < rows_ * cols) values_ = Buffer<float>(rows_ * cols);
  if (end_ != nullptr) {
    named_.assign(tokens.begin(), tokens.begin() + columns.named);
    return end_->look_up(tokens, {values_.data(), rows_, cols});
  }
  pool_.parallel_for(rows_, 32, [&](Range range) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      weight_.unpack_rows(tokens[static_cast<size_t>(i)], {values_.data() + i * cols, 1, cols});
    }
  });
}

void HeadMap::forward(ConstMatrix x, Matrix y, std::span<float>) {
  gemm(x, {ConstMatrix(values_.data(), rows_, x.cols), Transpose::kYes}, y, Accumulate::kOverwrite,
       pool_);
}

void HeadMap::backward(ConstMatrix x, ConstMatrix grad_y, std::span<const float>, Matrix grad_x) {
  gemm(grad_y, ConstMatrix(values_.data(), rows_, grad_x.cols), grad_x, Accumulate::kOverwrite,
       pool_);
  if (end_ == nullptr) return;
  const int64_t named = std::ssize(named_);
  if (gradient_.size() < named * x.cols) gradient_ = Buffer<float>(named * x.cols);
  const Matrix gradient(gradient_.data(), named, x.cols);
  gemm({grad_y.cols_from(0, named), Transpose::kYes}, x, gradient, Accumulate::kOverwrite, pool_);
  end_->add_gradient(named_, gradient);
}

Student::Student(const StudentRequest& request, FittedModel fitted, ThreadPool& pool)
    : model_(*request.model),
      pool_(pool),
      fitted_(std::move(fitted)),
      tables_(fitted_.tables),
      compute_(make_cpu_backend(pool)),
      pass_rows_(rows_of_a_pass(model_, request.longest_window)) {
  model_.prepare(pass_rows_);
  ActivationWidths widths = model_.activation_widths();
  widths.vocab = most_columns(request.longest_window, widths.vocab);
  activations_ = carve_activations(
      widths, {pass_rows_, pass_rows_, request.longest_window, KvType::kF32}, storage_);
  tape_ = std::make_unique<TapeBackend>(*compute_, storage_.span(), pool);
  TunedEnd* head_end = nullptr;
  for (const EndStart& start : request.ends) {
    ends_.push_back(std::make_unique<TunedEnd>(start, pool));
    if (start.embeds) tape_->set_embedding(*ends_.back());
    if (start.heads) head_end = ends_.back().get();
  }
  head_ = std::make_unique<HeadMap>(*model_.find_linear(request.manifest->head)->parts[0].weight,
                                    pool, head_end);
  tape_->set_map(request.manifest->head, *head_);
  for (size_t b = 0; b < fitted_.blocks.size(); ++b) {
    const FittedBlock& block = fitted_.blocks[b];
    for (const FittedLinear& linear : block.linears) {
      maps_.push_back(
          make_tuned_map(linear, {request.latent_start, CodeRounding::kOn, &tables_}, pool));
      tape_->set_map(linear.name, *maps_.back());
    }
    for (size_t n = 0; n < block.norms.size(); ++n) {
      const FittedNorm& norm = block.norms[n];
      if (norm.folded) norms_.push_back({norm.name, TunedVector(norm.values), b, n});
    }
  }
  put_norms();
}

void Student::put_norms() {
  tape_->clear_norm_gradients();
  for (Norm& norm : norms_) {
    model_.replace_norm(norm.name, norm.values.values());
    tape_->set_norm_gradient(model_.find_norm(norm.name)->data(), norm.values.gradient());
  }
}

size_t Student::lessons_in_a_pass(std::span<const Lesson> lessons) const {
  int64_t rows = 0;
  size_t count = 0;
  for (const Lesson& lesson : lessons) {
    rows += std::ssize(lesson.window);
    if (rows > pass_rows_) break;
    ++count;
  }
  return count;
}

double Student::run(std::span<const Lesson> lessons, Pass pass, float scale) {
  CHECK(!lessons.empty() && lessons_in_a_pass(lessons) == lessons.size());
  std::vector<int32_t> tokens;
  std::vector<int64_t> lengths;
  for (const Lesson& lesson : lessons) {
    tokens.insert(tokens.end(), lesson.window.begin(), lesson.window.end());
    lengths.push_back(std::ssize(lesson.window));
  }
  tape_->set_sequences(lengths);
  model_.embed(*tape_, tokens, activations_);
  for (int64_t layer = 0; layer < model_.config().num_hidden_layers; ++layer)
    model_.block(*tape_, layer, {0, std::ssize(tokens)}, {}, activations_);
  double loss = 0.0;
  int64_t first_row = 0;
  for (const Lesson& lesson : lessons) {
    loss += run_head(lesson, first_row, pass, scale);
    first_row += std::ssize(lesson.window);
  }
  pass == Pass::kForward ? tape_->clear() : tape_->play_backwards();
  return loss;
}

/// Each window has columns of its own, so each has its turn at the head, backwards at once.
double Student::run_head(const Lesson& lesson, int64_t first_row, Pass pass, float scale) {
  const int64_t rows = std::ssize(lesson.window);
  const auto width = static_cast<int64_t>(lesson.columns.tokens.size());
  head_->choose(lesson.columns);
  activations_.logits.cols = width;
  activations_.logits.stride = width;
  const TapeBackend::Mark before = tape_->mark();
  model_.head(*tape_, first_row, rows, activations_);
  tape_->finish();
  const Tensor logits = activations_.logits.rows_from(0, rows);
  LossGradient gradient{tape_->gradient(logits), scale};
  const double loss = distillation_loss(*lesson.targets, lesson.columns, logits.matrix(),
                                        pass == Pass::kForward ? nullptr : &gradient, pool_);
  pass == Pass::kForward ? tape_->forget_to(before) : tape_->play_backwards_to(before);
  return loss;
}

double Student::finish_gradients() {
  double squares = 0.0;
  for (const auto& map : maps_) squares += map->finish_gradients();
  for (const Norm& norm : norms_) squares += norm.values.gradient_squares();
  squares += tables_.gradient_squares();
  for (const auto& end : ends_) squares += end->gradient_squares();
  return std::sqrt(squares);
}

void Student::step(const AdamStep& adam, const LearningRates& rates) {
  AdamStep latents = adam;
  AdamStep scales = adam;
  latents.rate = rates.latents;
  scales.rate = rates.scales;
  tables_.step(scales);  // first: codes are found among the entries there now are
  for (const auto& map : maps_) map->step(latents, scales);
  for (Norm& norm : norms_) norm.values.step(scales);
  AdamStep ends = adam;
  ends.rate = rates.ends;
  for (const auto& end : ends_) end->step(ends);
  put_norms();
}

void Student::drop_gradients() {
  for (const auto& map : maps_) map->drop_gradients();
  for (Norm& norm : norms_) norm.values.drop_gradient();
  tables_.drop_gradient();
  for (const auto& end : ends_) end->drop_gradient();
}

void Student::list_state(StateArrays& state) {
  tables_.list_state(state);
  for (size_t m = 0; m < maps_.size(); ++m) maps_[m]->list_state("map." + std::to_string(m), state);
  for (Norm& norm : norms_) norm.values.list_state("norm." + norm.name, state);
  for (size_t e = 0; e < ends_.size(); ++e) ends_[e]->list_state("end." + std::to_string(e), state);
}

FittedModel Student::fitted() const {
  FittedModel result = fitted_;
  size_t next = 0;
  for (FittedBlock& block : result.blocks)
    for (FittedLinear& linear : block.linears) maps_[next++]->export_to(linear);
  for (const Norm& norm : norms_)
    result.blocks[norm.block].norms[norm.index].values = norm.values.values();
  result.tables = tables_.tables();
  for (const auto& end : ends_) result.ends.push_back(end->bytes());
  return result;
}

}  // namespace subbit
