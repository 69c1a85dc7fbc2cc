// Rows are shared out among threads; every sum runs in one order.
#include "compress/tune/sign_latents.h"

#include <algorithm>

#include "base/check.h"
#include "base/rng.h"
#include "base/wide_loop.h"
#include "linalg/row_reduction.h"
#include "linalg/widen.h"

namespace subbit {
namespace {

constexpr int64_t kRowsPerTask = 8;
/// A latent far beyond where all started could not come back within a run.
constexpr float kBound = 1.0f;
constexpr BFloat16 kPlusOne{0x3F80};
constexpr BFloat16 kMinusOne{0xBF80};

float at(RowScales scales, int64_t i) {
  return scales.empty() ? 1.0f : scales[static_cast<size_t>(i)];
}

}  // namespace

SignLatents::SignLatents(const SignMatrix& signs, float start)
    : rows_(signs.rows),
      cols_(signs.cols),
      latent_(rows_ * cols_),
      mean_(rows_ * cols_, 0.0f),
      square_(rows_ * cols_, 0.0f),
      gradient_(rows_ * cols_),
      signs_(rows_ * cols_) {
  Rng rng(static_cast<uint64_t>(rows_ * cols_));
  for (int64_t i = 0; i < rows_ * cols_; ++i) {
    const bool plus = signs.bits[static_cast<size_t>(i)] != 0;
    const auto distance = static_cast<float>(start * rng.uniform());
    latent_[i] = plus ? distance : -distance;
    signs_[i] = plus ? kPlusOne : kMinusOne;
  }
}

SignMatrix SignLatents::signs() const {
  SignMatrix signs{rows_, cols_, std::vector<uint8_t>(static_cast<size_t>(rows_ * cols_))};
  for (int64_t i = 0; i < rows_ * cols_; ++i)
    signs.bits[static_cast<size_t>(i)] = signs_[i].bits == kPlusOne.bits;
  return signs;
}

void SignLatents::gather(const GemmOperand& a, const GemmOperand& b, ThreadPool& pool) {
  gemm(a, b, {gradient_.data(), rows_, cols_},
       gathered_ ? Accumulate::kAdd : Accumulate::kOverwrite, pool);
  gathered_ = true;
}

double SignLatents::finish_gradient(RowScales scales, std::span<float> scale_gradients,
                                    ThreadPool& pool) const {
  if (!gathered_) return 0.0;
  std::vector<double> sums(static_cast<size_t>(rows_), 0.0);
  wide_parallel_for(pool, rows_, kRowsPerTask, [&](Range range) {
    std::vector<float> signs(static_cast<size_t>(cols_));
    for (int64_t i = range.begin; i < range.end; ++i) {
      const float* gradient = gradient_.data() + i * cols_;
      const double row = at(scales, i);
      sums[static_cast<size_t>(i)] = row * row * dot_of(gradient, gradient, cols_);
      if (scale_gradients.empty()) continue;
      widen(GemmOperand::Type::kBF16, signs_.data() + i * cols_, cols_, signs.data());
      scale_gradients[static_cast<size_t>(i)] += dot_of(gradient, signs.data(), cols_);
    }
  });
  double total = 0.0;
  for (const double sum : sums) total += sum;
  return total;
}

void SignLatents::step(RowScales scales, const AdamStep& adam, ThreadPool& pool) {
  CHECK(gathered_);
  wide_parallel_for(pool, rows_, kRowsPerTask, [&](Range range) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      AdamStep own = adam;
      own.gradient_scale *= at(scales, i);
      float* latent = latent_.data() + i * cols_;
      float* mean = mean_.data() + i * cols_;
      float* square = square_.data() + i * cols_;
      const float* gradient = gradient_.data() + i * cols_;
      BFloat16* signs = signs_.data() + i * cols_;
      for (int64_t j = 0; j < cols_; ++j) {
        const float moved = latent[j] + adam_delta(gradient[j], mean[j], square[j], own);
        latent[j] = std::clamp(moved, -kBound, kBound);
      }
      for (int64_t j = 0; j < cols_; ++j) signs[j] = latent[j] >= 0.0f ? kPlusOne : kMinusOne;
    }
  });
  gathered_ = false;
}

void SignLatents::list_state(const std::string& name, StateArrays& state) {
  state.add(name + ".latent", latent_);
  state.add(name + ".mean", mean_);
  state.add(name + ".square", square_);
  state.add(name + ".signs", signs_);
}

}  // namespace subbit
