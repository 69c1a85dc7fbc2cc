// Rows are shared out among threads; every sum runs in one order.
#include "compress/tune/sign_latents.h"

#include <algorithm>

#include "base/check.h"
#include "base/rng.h"

namespace subbit {
namespace {

constexpr int64_t kRowsPerTask = 8;
/// A latent far beyond where all started could not come back within a run.
constexpr float kBound = 1.0f;

float at(std::span<const float> scales, int64_t i) {
  return scales.empty() ? 1.0f : scales[static_cast<size_t>(i)];
}

}  // namespace

SignLatents::SignLatents(const SignMatrix& signs, float start)
    : rows_(signs.rows),
      cols_(signs.cols),
      latent_(rows_ * cols_),
      mean_(rows_ * cols_, 0.0f),
      square_(rows_ * cols_, 0.0f),
      gradient_(rows_ * cols_, 0.0f),
      scaled_(rows_ * cols_) {
  Rng rng(static_cast<uint64_t>(rows_ * cols_));
  for (int64_t i = 0; i < rows_ * cols_; ++i) {
    const auto distance = static_cast<float>(start * rng.uniform());
    latent_[i] = signs.bits[static_cast<size_t>(i)] != 0 ? distance : -distance;
  }
}

SignMatrix SignLatents::signs() const {
  SignMatrix signs{rows_, cols_, std::vector<uint8_t>(static_cast<size_t>(rows_ * cols_))};
  for (int64_t i = 0; i < rows_ * cols_; ++i)
    signs.bits[static_cast<size_t>(i)] = latent_[i] >= 0.0f;
  return signs;
}

void SignLatents::refresh(const SignScales& scales, ThreadPool& pool) {
  pool.parallel_for(rows_, kRowsPerTask, [&](Range range) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      const float row = at(scales.rows, i);
      const float* latent = latent_.data() + i * cols_;
      float* scaled = scaled_.data() + i * cols_;
      for (int64_t j = 0; j < cols_; ++j) scaled[j] = latent[j] >= 0.0f ? row : -row;
      if (scales.columns.empty()) continue;
      for (int64_t j = 0; j < cols_; ++j) scaled[j] *= scales.columns[static_cast<size_t>(j)];
    }
  });
}

void SignLatents::add_scale_gradients(const SignScales& scales, std::span<float> rows,
                                      std::span<float> columns, ThreadPool& pool) const {
  const auto sign = [&](int64_t i, int64_t j) {
    return latent_[i * cols_ + j] >= 0.0f ? 1.0f : -1.0f;
  };
  if (!rows.empty()) {
    pool.parallel_for(rows_, kRowsPerTask, [&](Range range) {
      for (int64_t i = range.begin; i < range.end; ++i) {
        float sum = 0.0f;
        for (int64_t j = 0; j < cols_; ++j)
          sum += sign(i, j) * at(scales.columns, j) * gradient_[i * cols_ + j];
        rows[static_cast<size_t>(i)] += sum;
      }
    });
  }
  if (columns.empty()) return;
  pool.parallel_for(cols_, 64, [&](Range range) {
    for (int64_t i = 0; i < rows_; ++i)
      for (int64_t j = range.begin; j < range.end; ++j)
        columns[static_cast<size_t>(j)] +=
            sign(i, j) * at(scales.rows, i) * gradient_[i * cols_ + j];
  });
}

double SignLatents::gradient_squares(const SignScales& scales, ThreadPool& pool) const {
  std::vector<double> sums(static_cast<size_t>(rows_), 0.0);
  pool.parallel_for(rows_, kRowsPerTask, [&](Range range) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      float sum = 0.0f;
      for (int64_t j = 0; j < cols_; ++j) {
        const float g = gradient_[i * cols_ + j] * at(scales.columns, j);
        sum += g * g;
      }
      const double row = at(scales.rows, i);
      sums[static_cast<size_t>(i)] = row * row * sum;
    }
  });
  double total = 0.0;
  for (const double sum : sums) total += sum;
  return total;
}

void SignLatents::drop_gradient() { std::fill_n(gradient_.data(), gradient_.size(), 0.0f); }

void SignLatents::step(const SignScales& scales, const AdamStep& adam, ThreadPool& pool) {
  pool.parallel_for(rows_, kRowsPerTask, [&](Range range) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      AdamStep own = adam;
      own.gradient_scale *= at(scales.rows, i);
      float* latent = latent_.data() + i * cols_;
      float* gradient = gradient_.data() + i * cols_;
      float* mean = mean_.data() + i * cols_;
      float* square = square_.data() + i * cols_;
      if (!scales.columns.empty())
        for (int64_t j = 0; j < cols_; ++j) gradient[j] *= scales.columns[static_cast<size_t>(j)];
      for (int64_t j = 0; j < cols_; ++j) {
        const float moved = latent[j] + adam_delta(gradient[j], mean[j], square[j], own);
        latent[j] = std::clamp(moved, -kBound, kBound);
        gradient[j] = 0.0f;
      }
    }
  });
}

}  // namespace subbit
