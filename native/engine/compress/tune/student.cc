// One window at a time: its activations, tape and mirror stay in the caches of small models.
#include "compress/tune/student.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "backend/cpu/cpu_backend.h"
#include "base/check.h"
#include "compress/fit/int4/fit_int4.h"
#include "decoding/decoder.h"
#include "formats/registry.h"
#include "linalg/gemm.h"

namespace subbit {

void HeadMap::choose(std::span<const int32_t> tokens) {
  const int64_t cols = weight_.shape().cols;
  rows_ = std::ssize(tokens);
  if (values_.size() < rows_ * cols) values_ = Buffer<float>(rows_ * cols);
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

void HeadMap::backward(ConstMatrix, ConstMatrix grad_y, std::span<const float>, Matrix grad_x) {
  gemm(grad_y, ConstMatrix(values_.data(), rows_, grad_x.cols), grad_x, Accumulate::kOverwrite,
       pool_);
}

Student::Student(const StudentRequest& request, FittedModel fitted, ThreadPool& pool)
    : model_(*request.model),
      pool_(pool),
      fitted_(std::move(fitted)),
      compute_(make_cpu_backend(pool)),
      longest_(request.longest_window) {
  const ModelConfig& config = model_.config();
  model_.prepare(longest_);
  quantize_ends(*request.manifest);
  const MemoryOptions rows{longest_, longest_, longest_, KvType::kF32};
  ActivationWidths widths = model_.activation_widths();
  widths.vocab = most_columns(longest_, widths.vocab);
  activations_ = carve_activations(widths, rows, storage_);
  keys_ = Buffer<float>(longest_ * config.num_key_value_heads * config.head_dim);
  values_ = Buffer<float>(keys_.size());
  tape_ = std::make_unique<TapeBackend>(*compute_, storage_.span(), pool);
  head_ =
      std::make_unique<HeadMap>(*model_.find_linear(request.manifest->head)->parts[0].weight, pool);
  tape_->set_map(request.manifest->head, *head_);
  for (size_t b = 0; b < fitted_.blocks.size(); ++b) {
    const FittedBlock& block = fitted_.blocks[b];
    for (const FittedLinear& linear : block.linears) {
      maps_.push_back(make_tuned_map(linear, {request.latent_start, CodeRounding::kOn}, pool));
      tape_->set_map(linear.name, *maps_.back());
    }
    for (size_t n = 0; n < block.norms.size(); ++n) {
      const FittedNorm& norm = block.norms[n];
      if (norm.folded) norms_.push_back({norm.name, TunedVector(norm.values), b, n});
    }
  }
  put_norms();
}

/// The student hears and speaks through the embeddings that will be written.
void Student::quantize_ends(const Manifest& manifest) {
  std::vector<std::string> names{manifest.embedding};
  if (manifest.head != manifest.embedding) names.push_back(manifest.head);
  for (const std::string& name : names) {
    const Linear& source = *model_.find_linear(name);
    end_bytes_.push_back(fit_int4(*source.parts[0].weight));
    const std::vector<std::byte>& bytes = end_bytes_.back();
    const TensorView tensor{name, DType::kU8, {std::ssize(bytes)}, bytes};
    Linear linear;
    linear.shape = source.shape;
    linear.parts.push_back({find_format("int4")->view(tensor, source.shape), {}});
    model_.replace_linear(name, std::move(linear));
  }
}

void Student::put_norms() {
  tape_->clear_norm_gradients();
  for (Norm& norm : norms_) {
    model_.replace_norm(norm.name, norm.values.values());
    tape_->set_norm_gradient(model_.find_norm(norm.name)->data(), norm.values.gradient());
  }
}

double Student::run(std::span<const int32_t> window, const TeacherTargets& targets,
                    const HeadColumns& columns, Pass pass, float scale) {
  const auto tokens = static_cast<int64_t>(window.size());
  const auto width = static_cast<int64_t>(columns.tokens.size());
  CHECK(tokens <= longest_ && tokens == targets.rows);
  head_->choose(columns.tokens);
  activations_.logits.cols = width;
  activations_.logits.stride = width;
  model_.embed(*tape_, window, activations_);
  const KvLayer kv{KvType::kF32, keys_.data(), values_.data(), longest_};
  for (int64_t layer = 0; layer < model_.config().num_hidden_layers; ++layer)
    model_.block(*tape_, layer, {0, tokens}, kv, activations_);
  model_.head(*tape_, 0, tokens, activations_);
  tape_->finish();
  const Tensor logits = activations_.logits.rows_from(0, tokens);
  if (pass == Pass::kForward) {
    tape_->clear();
    return distillation_loss(targets, columns, logits.matrix(), nullptr, pool_);
  }
  const LossGradient gradient{tape_->gradient(logits), scale};
  const double loss = distillation_loss(targets, columns, logits.matrix(), &gradient, pool_);
  tape_->play_backwards();
  return loss;
}

double Student::finish_gradients() {
  double squares = 0.0;
  for (const auto& map : maps_) squares += map->finish_gradients();
  for (const Norm& norm : norms_) squares += norm.values.gradient_squares();
  return std::sqrt(squares);
}

void Student::step(const AdamStep& adam, const LearningRates& rates) {
  AdamStep latents = adam;
  AdamStep scales = adam;
  latents.rate = rates.latents;
  scales.rate = rates.scales;
  for (const auto& map : maps_) map->step(latents, scales);
  for (Norm& norm : norms_) norm.values.step(scales);
  put_norms();
}

void Student::drop_gradients() {
  for (const auto& map : maps_) map->drop_gradients();
  for (Norm& norm : norms_) norm.values.drop_gradient();
}

FittedModel Student::fitted() const {
  FittedModel result = fitted_;
  size_t next = 0;
  for (FittedBlock& block : result.blocks)
    for (FittedLinear& linear : block.linears) maps_[next++]->export_to(linear);
  for (const Norm& norm : norms_)
    result.blocks[norm.block].norms[norm.index].values = norm.values.values();
  return result;
}

}  // namespace subbit
