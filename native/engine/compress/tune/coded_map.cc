// One product forward, two backward.
#include "compress/tune/coded_map.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "base/check.h"
#include "base/wide_loop.h"
#include "compress/tune/row_scaling.h"
#include "formats/signs/quantized_rows.h"
#include "linalg/gemm.h"
#include "linalg/row_reduction.h"
#include "linalg/widen.h"

namespace subbit {
namespace {

constexpr int64_t kRowsPerTask = 8;

bool overlap(const std::vector<CodedTerm>& terms) {
  for (size_t a = 0; a < terms.size(); ++a)
    for (size_t b = a + 1; b < terms.size(); ++b)
      if (terms[a].first_column < terms[b].first_column + terms[b].columns &&
          terms[b].first_column < terms[a].first_column + terms[a].columns)
        return true;
  return false;
}

}  // namespace

CodedMap::CodedMap(const FittedLinear& linear, TunedTables& tables, const TunedMapOptions& options,
                   ThreadPool& pool)
    : shape_(std::get<CodedFit>(linear.fit).shape),
      pool_(pool),
      rounding_(options.rounding),
      tables_(tables),
      post_(std::get<CodedFit>(linear.fit).s_post),
      bias_(linear.bias),
      q_(shape_.count()),
      q_floats_(shape_.count()),
      gradient_(shape_.count()) {
  const auto& fit = std::get<CodedFit>(linear.fit);
  if (linear.pre_scale == PreScale::kOwn) pre_ = TunedVector(fit.s_pre);
  std::vector<float> gains;
  for (const CodedTerm& term : fit.terms) {
    gains.push_back(term.gain);
    terms_.emplace_back(term, shape_.rows, tables.tables(), options.latent_start);
  }
  if (overlap(fit.terms)) gains_ = TunedVector(gains);
  sum_terms();
}

float CodedMap::gain(size_t term) const {
  return gains_.empty() ? terms_[term].term().gain : gains_.values()[term];
}

void CodedMap::sum_terms() {
  const Matrix q(q_floats_.data(), shape_.rows, shape_.cols);
  std::fill_n(q.data, shape_.count(), 0.0f);
  for (size_t t = 0; t < terms_.size(); ++t) terms_[t].add_to(gain(t), tables_.tables(), q, pool_);
  narrow(q, {q_.data(), shape_.rows, shape_.cols}, pool_);
}

/// The tape's memory, which holds nothing but floats, taken for half as wide values.
MatrixView<BFloat16> CodedMap::saved_in(std::span<const float> saved, int64_t tokens) const {
  CHECK(std::ssize(saved) == tokens * saved_per_token());
  return {reinterpret_cast<BFloat16*>(const_cast<float*>(saved.data())), tokens, shape_.cols};
}

void CodedMap::forward(ConstMatrix x, Matrix y, std::span<float> saved) {
  const MatrixView<BFloat16> input = saved_in(saved, x.rows);
  ConstMatrix scaled = x;
  if (!pre_.empty()) {
    const Matrix own = grow(scaled_input_, x.rows, x.cols);
    scale_columns(x, pre_.values(), own, pool_);
    scaled = own;
  }
  rounding_ == CodeRounding::kOn ? round_to_codes(scaled, input, pool_)
                                 : narrow(scaled, input, pool_);
  const MatrixView<const BFloat16> q(q_.data(), shape_.rows, shape_.cols);
  gemm(input, {q, Transpose::kYes}, y, Accumulate::kOverwrite, pool_);
  scale_columns(y, post_.values(), y, pool_);
}

void CodedMap::backward(ConstMatrix x, ConstMatrix grad_y, std::span<const float> saved,
                        Matrix grad_x) {
  const auto narrow_y = grow(grad_y_, grad_y.rows, grad_y.cols);
  const auto scaled_y = grow(scaled_grad_y_, grad_y.rows, grad_y.cols);
  narrow_gradient(grad_y, post_.values(), {narrow_y, scaled_y}, pool_);
  gemm({narrow_y, Transpose::kYes}, saved_in(saved, x.rows),
       {gradient_.data(), shape_.rows, shape_.cols},
       gathered_ ? Accumulate::kAdd : Accumulate::kOverwrite, pool_);
  gathered_ = true;
  gemm(scaled_y, MatrixView<const BFloat16>(q_.data(), shape_.rows, shape_.cols), grad_x,
       Accumulate::kOverwrite, pool_);
  if (pre_.empty()) return;
  undo_column_scales(x, pre_.values(), pre_.gradient(), grad_x, pool_);
}

double CodedMap::finish_gradients() {
  double total = 0.0;
  if (gathered_) {
    std::vector<double> sums(static_cast<size_t>(shape_.rows), 0.0);
    const std::span<float> post_gradient = post_.gradient();
    wide_parallel_for(pool_, shape_.rows, kRowsPerTask, [&](Range range) {
      std::vector<float> q(static_cast<size_t>(shape_.cols));
      for (int64_t i = range.begin; i < range.end; ++i) {
        const float* gradient = gradient_.data() + i * shape_.cols;
        const double post = post_.values()[static_cast<size_t>(i)];
        sums[static_cast<size_t>(i)] = post * post * dot_of(gradient, gradient, shape_.cols);
        widen(GemmOperand::Type::kBF16, q_.data() + i * shape_.cols, shape_.cols, q.data());
        post_gradient[static_cast<size_t>(i)] += dot_of(gradient, q.data(), shape_.cols);
      }
    });
    for (const double sum : sums) total += sum;
    const ConstMatrix gradient(gradient_.data(), shape_.rows, shape_.cols);
    for (size_t t = 0; t < terms_.size(); ++t) {
      const CodedTerm& term = terms_[t].term();
      const bool table = term.coding == Coding::kTable;
      if (!table && gains_.empty()) continue;
      const double of_gain =
          terms_[t].gather(gradient, post_.values(), gain(t), tables_.tables(),
                           table ? tables_.gradient(term.table) : std::span<float>(), pool_);
      if (!gains_.empty()) gains_.gradient()[t] += static_cast<float>(of_gain);
    }
  }
  for (const TunedVector* vector : {&gains_, &post_, &pre_, &bias_})
    total += vector->gradient_squares();
  return total;
}

void CodedMap::step(const AdamStep& latents, const AdamStep& scales) {
  CHECK(gathered_);
  const ConstMatrix gradient(gradient_.data(), shape_.rows, shape_.cols);
  for (CodeLatents& term : terms_)
    term.step(gradient, post_.values(), latents, tables_.tables(), pool_);
  for (TunedVector* vector : {&gains_, &post_, &pre_, &bias_}) vector->step(scales);
  sum_terms();
  gathered_ = false;
}

void CodedMap::drop_gradients() {
  gathered_ = false;
  for (TunedVector* vector : {&gains_, &post_, &pre_, &bias_}) vector->drop_gradient();
}

void CodedMap::list_state(const std::string& name, StateArrays& state) {
  for (size_t t = 0; t < terms_.size(); ++t)
    terms_[t].list_state((name + ".term.").append(std::to_string(t)), state);
  state.add(name + ".q", q_);
  gains_.list_state(name + ".gains", state);
  post_.list_state(name + ".s_post", state);
  pre_.list_state(name + ".s_pre", state);
  bias_.list_state(name + ".bias", state);
}

void CodedMap::export_to(FittedLinear& linear) const {
  auto& fit = std::get<CodedFit>(linear.fit);
  for (size_t t = 0; t < terms_.size(); ++t) {
    fit.terms[t] = terms_[t].term();
    fit.terms[t].gain = gain(t);
  }
  fit.s_post = post_.values();
  if (!pre_.empty()) fit.s_pre = pre_.values();
  linear.bias = bias_.values();
}

}  // namespace subbit
