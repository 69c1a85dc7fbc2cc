// A matrix of signs that can be tuned: each sign is that of a float, and the gradient of the sign
// is taken for the gradient of the float (straight-through estimator, Bengio et al. 2013).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/matrix.h"
#include "base/thread_pool.h"
#include "compress/tune/adam.h"
#include "formats/signs/sign_matrix.h"

namespace subbit {

/// Scales of the rows and columns around the signs; empty means ones.
struct SignScales {
  std::span<const float> rows;
  std::span<const float> columns;
};

/// Memory: 20 bytes a sign (latent, two moments, gradient, scaled signs).
class SignLatents {
 public:
  /// Latents start evenly spread within the distance `start` of zero, on their signs' side.
  SignLatents(const SignMatrix& signs, float start);

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  SignMatrix signs() const;

  /// Computes scaled(), from the latents' signs.
  void refresh(const SignScales& scales, ThreadPool& pool);
  /// diag(rows) sign(latent) diag(columns).
  ConstMatrix scaled() const { return {scaled_.data(), rows_, cols_}; }
  /// d loss / d scaled, gathered since the last step.
  Matrix gradient() { return {gradient_.data(), rows_, cols_}; }

  /// Adds the gradient of the scales to the vectors that are not empty.
  void add_scale_gradients(const SignScales& scales, std::span<float> rows,
                           std::span<float> columns, ThreadPool& pool) const;
  double gradient_squares(const SignScales& scales, ThreadPool& pool) const;
  void step(const SignScales& scales, const AdamStep& adam, ThreadPool& pool);
  void drop_gradient();

 private:
  int64_t rows_;
  int64_t cols_;
  Buffer<float> latent_;
  Buffer<float> mean_;
  Buffer<float> square_;
  Buffer<float> gradient_;
  Buffer<float> scaled_;
};

}  // namespace subbit
