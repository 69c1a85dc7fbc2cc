// What stands gathers no gradient, or has it dropped.
#include "compress/tune/block_student.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "backend/cpu/cpu_backend.h"
#include "base/check.h"
#include "decoding/decoder.h"

namespace subbit {
namespace {

constexpr int64_t kRowsPerTask = 16;

}  // namespace

double weighted_error(ConstMatrix output, ConstMatrix target, std::span<const float> weights,
                      const WeightedErrorGradient* gradient, ThreadPool& pool) {
  CHECK(output.shape() == target.shape() && std::ssize(weights) == output.cols);
  std::vector<double> sums(static_cast<size_t>(output.rows));
  pool.parallel_for(output.rows, kRowsPerTask, [&](Range range) {
    for (int64_t t = range.begin; t < range.end; ++t) {
      double sum = 0.0;
      for (int64_t c = 0; c < output.cols; ++c) {
        const float weight = weights[static_cast<size_t>(c)];
        const float miss = output.at(t, c) - target.at(t, c);
        sum += static_cast<double>(weight * miss) * miss;
        if (gradient != nullptr) gradient->values.at(t, c) = 2.0f * gradient->scale * weight * miss;
      }
      sums[static_cast<size_t>(t)] = sum;
    }
  });
  double total = 0.0;
  for (const double sum : sums) total += sum;
  return total;
}

BlockStudent::BlockStudent(const BlockPlace& place, BlockState state, float latent_start,
                           ThreadPool& pool)
    : model_(*place.model),
      index_(place.index),
      pool_(pool),
      state_(std::move(state)),
      compute_(make_cpu_backend(pool)),
      longest_(place.longest_window),
      tables_({place.tables.begin(), place.tables.end()}) {
  const ModelConfig& config = model_.config();
  model_.prepare(longest_);
  ActivationWidths widths = model_.activation_widths();
  widths.vocab = 0;
  activations_ = carve_activations(widths, {longest_, longest_, 0, KvType::kF32}, storage_);
  keys_ = Buffer<float>(longest_ * config.num_key_value_heads * config.head_dim);
  values_ = Buffer<float>(keys_.size());
  tape_ = std::make_unique<TapeBackend>(*compute_, storage_.span(), pool);
  for (BlockLinear& linear : state_.linears) {
    Map& map = maps_.emplace_back();
    if (linear.fitted.has_value()) {
      map.fitted =
          make_tuned_map(*linear.fitted, {latent_start, CodeRounding::kOn, &tables_}, pool);
      tape_->set_map(linear.name, *map.fitted);
    } else {
      map.dense = std::make_unique<DenseMap>(std::move(linear.dense), linear.movement, pool);
      tape_->set_map(linear.name, *map.dense);
    }
  }
  for (size_t i = 0; i < state_.norms.size(); ++i) {
    const FittedNorm& norm = state_.norms[i];
    if (norm.folded && state_.norms_movement == Movement::kMoves)
      norms_.push_back({i, TunedVector(norm.values)});
    else
      model_.replace_norm(norm.name, norm.values);
  }
  put_norms();
}

void BlockStudent::put_norms() {
  tape_->clear_norm_gradients();
  for (Norm& norm : norms_) {
    const std::string& name = state_.norms[norm.index].name;
    model_.replace_norm(name, norm.values.values());
    tape_->set_norm_gradient(model_.find_norm(name)->data(), norm.values.gradient());
  }
}

double BlockStudent::run(ConstMatrix input, ConstMatrix target, std::span<const float> weights,
                         Pass pass, float scale) {
  const int64_t tokens = input.rows;
  CHECK(tokens <= longest_);
  const Tensor h = activations_.h.rows_from(0, tokens);
  for (int64_t t = 0; t < tokens; ++t) std::copy_n(input.row(t), input.cols, h.data + t * h.stride);
  const KvLayer kv{KvType::kF32, keys_.data(), values_.data(), longest_};
  model_.block(*tape_, index_, {0, tokens}, kv, activations_);
  tape_->finish();
  if (pass == Pass::kForward) {
    tape_->clear();
    return weighted_error(h.matrix(), target, weights, nullptr, pool_);
  }
  const WeightedErrorGradient gradient{tape_->gradient(h), scale};
  const double error = weighted_error(h.matrix(), target, weights, &gradient, pool_);
  tape_->play_backwards();
  tape_->clear_gradients();  // the block's input has one
  return error;
}

double BlockStudent::finish_gradients() {
  double squares = 0.0;
  for (size_t i = 0; i < maps_.size(); ++i) {
    if (state_.linears[i].movement == Movement::kStands) continue;
    squares += maps_[i].dense != nullptr ? maps_[i].dense->gradient_squares()
                                         : maps_[i].fitted->finish_gradients();
  }
  for (const Norm& norm : norms_) squares += norm.values.gradient_squares();
  return std::sqrt(squares);
}

void BlockStudent::step(const AdamStep& adam, const BlockRates& rates) {
  const auto at = [&](float rate) {
    AdamStep step = adam;
    step.rate = rate;
    return step;
  };
  for (size_t i = 0; i < maps_.size(); ++i) {
    if (maps_[i].dense != nullptr) {
      maps_[i].dense->step(at(rates.dense));
    } else if (state_.linears[i].movement == Movement::kMoves) {
      maps_[i].fitted->step(at(rates.latents), at(rates.scales));
    } else {
      maps_[i].fitted->drop_gradients();
    }
  }
  for (Norm& norm : norms_) norm.values.step(at(rates.scales));
  tables_.drop_gradient();
  put_norms();
}

void BlockStudent::drop_gradients() {
  for (const Map& map : maps_) {
    if (map.dense != nullptr) map.dense->drop_gradient();
    if (map.fitted != nullptr) map.fitted->drop_gradients();
  }
  for (Norm& norm : norms_) norm.values.drop_gradient();
  tables_.drop_gradient();
}

std::span<const float> BlockStudent::dense_gradient(size_t linear) const {
  CHECK(maps_[linear].dense != nullptr);
  return maps_[linear].dense->gradient();
}

BlockState BlockStudent::state() const {
  BlockState result = state_;
  for (size_t i = 0; i < maps_.size(); ++i) {
    if (maps_[i].dense != nullptr)
      result.linears[i].dense = maps_[i].dense->linear();
    else if (result.linears[i].movement == Movement::kMoves)
      maps_[i].fitted->export_to(*result.linears[i].fitted);
  }
  for (const Norm& norm : norms_) result.norms[norm.index].values = norm.values.values();
  return result;
}

}  // namespace subbit
