// Two products forward, four backward.
#include "compress/tune/factored_map.h"

#include <variant>

#include "base/check.h"
#include "compress/tune/row_scaling.h"
#include "formats/signs/quantized_rows.h"
#include "linalg/gemm.h"

namespace subbit {

FactoredMap::FactoredMap(const FittedLinear& linear, float start, CodeRounding rounding,
                         ThreadPool& pool)
    : pool_(pool),
      rounding_(rounding),
      u_(std::get<FactoredFit>(linear.fit).u, start),
      v_(std::get<FactoredFit>(linear.fit).v, start),
      post_(std::get<FactoredFit>(linear.fit).s_post),
      bias_(linear.bias) {
  if (linear.pre_scale == PreScale::kOwn)
    pre_ = TunedVector(std::get<FactoredFit>(linear.fit).s_pre);
}

/// The tape's memory, which holds nothing but floats, taken for half as wide values.
FactoredMap::Saved FactoredMap::saved_in(std::span<const float> saved, int64_t tokens) const {
  CHECK(std::ssize(saved) == tokens * saved_per_token());
  auto* values = reinterpret_cast<BFloat16*>(const_cast<float*>(saved.data()));
  return {{values, tokens, v_.cols()}, {values + tokens * v_.cols(), tokens, u_.cols()}};
}

void FactoredMap::narrow_activations(ConstMatrix values, MatrixView<BFloat16> out) {
  rounding_ == CodeRounding::kOn ? round_to_codes(values, out, pool_) : narrow(values, out, pool_);
}

void FactoredMap::forward(ConstMatrix x, Matrix y, std::span<float> saved) {
  const Saved own = saved_in(saved, x.rows);
  if (pre_.empty()) {
    narrow_activations(x, own.input);
  } else {
    const Matrix scaled = grow(floats_, x.rows, x.cols);
    scale_columns(x, pre_.values(), scaled, pool_);
    narrow_activations(scaled, own.input);
  }
  const Matrix mid = grow(floats_, x.rows, u_.cols());
  gemm(own.input, {v_.matrix(), Transpose::kYes}, mid, Accumulate::kOverwrite, pool_);
  narrow_activations(mid, own.mid);
  gemm(own.mid, {u_.matrix(), Transpose::kYes}, y, Accumulate::kOverwrite, pool_);
  scale_columns(y, post_.values(), y, pool_);
}

void FactoredMap::backward(ConstMatrix x, ConstMatrix grad_y, std::span<const float> saved,
                           Matrix grad_x) {
  const Saved own = saved_in(saved, x.rows);
  const auto narrow_y = grow(grad_y_, grad_y.rows, grad_y.cols);
  const auto scaled_y = grow(scaled_grad_y_, grad_y.rows, grad_y.cols);
  narrow_gradient(grad_y, post_.values(), {narrow_y, scaled_y}, pool_);
  u_.gather({narrow_y, Transpose::kYes}, own.mid, pool_);
  const Matrix mid = grow(floats_, x.rows, u_.cols());
  gemm(scaled_y, u_.matrix(), mid, Accumulate::kOverwrite, pool_);
  const auto narrow_mid = grow(grad_mid_, x.rows, u_.cols());
  narrow(mid, narrow_mid, pool_);
  v_.gather({narrow_mid, Transpose::kYes}, own.input, pool_);
  gemm(narrow_mid, v_.matrix(), grad_x, Accumulate::kOverwrite, pool_);
  if (pre_.empty()) return;
  undo_column_scales(x, pre_.values(), pre_.gradient(), grad_x, pool_);
}

double FactoredMap::finish_gradients() {
  double squares = u_.finish_gradient(post_.values(), post_.gradient(), pool_) +
                   v_.finish_gradient({}, {}, pool_);
  for (const TunedVector* vector : {&post_, &pre_, &bias_}) squares += vector->gradient_squares();
  return squares;
}

void FactoredMap::step(const AdamStep& latents, const AdamStep& scales) {
  u_.step(post_.values(), latents, pool_);
  v_.step({}, latents, pool_);
  for (TunedVector* vector : {&post_, &pre_, &bias_}) vector->step(scales);
}

void FactoredMap::drop_gradients() {
  u_.drop_gradient();
  v_.drop_gradient();
  for (TunedVector* vector : {&post_, &pre_, &bias_}) vector->drop_gradient();
}

void FactoredMap::list_state(const std::string& name, StateArrays& state) {
  u_.list_state(name + ".u", state);
  v_.list_state(name + ".v", state);
  post_.list_state(name + ".s_post", state);
  pre_.list_state(name + ".s_pre", state);
  bias_.list_state(name + ".bias", state);
}

void FactoredMap::export_to(FittedLinear& linear) const {
  auto& fit = std::get<FactoredFit>(linear.fit);
  fit.u = u_.signs();
  fit.v = v_.signs();
  fit.s_post = post_.values();
  if (!pre_.empty()) fit.s_pre = pre_.values();
  linear.bias = bias_.values();
}

}  // namespace subbit
