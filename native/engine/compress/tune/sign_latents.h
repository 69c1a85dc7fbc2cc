// A matrix of signs that can be tuned: each sign is that of a float, and the gradient of the sign
// is taken for the gradient of the float (straight-through estimator, Bengio et al. 2013).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/half.h"
#include "base/matrix.h"
#include "base/thread_pool.h"
#include "compress/tune/adam.h"
#include "compress/tune/saved_state.h"
#include "formats/signs/sign_matrix.h"
#include "linalg/gemm.h"

namespace subbit {

/// Scales of the rows, which multiply the signs somewhere else; empty means ones.
using RowScales = std::span<const float>;

/// Memory: 18 bytes a sign (latent, two moments, gradient, the sign as a bfloat16).
class SignLatents {
 public:
  /// Latents start evenly spread within the distance `start` of zero, on their signs' side.
  SignLatents(const SignMatrix& signs, float start);

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  SignMatrix signs() const;
  /// The latents' signs, +1 and -1.
  MatrixView<const BFloat16> matrix() const { return {signs_.data(), rows_, cols_}; }

  /// Adds op(a) op(b) [rows, cols] to d loss / d (diag(scales) signs).
  void gather(const GemmOperand& a, const GemmOperand& b, ThreadPool& pool);
  /// The sum of squares of d loss / d signs. Where `scale_gradients` is not empty, the scales'
  /// gradients are added to it.
  double finish_gradient(RowScales scales, std::span<float> scale_gradients,
                         ThreadPool& pool) const;
  void step(RowScales scales, const AdamStep& adam, ThreadPool& pool);
  void drop_gradient() { gathered_ = false; }
  /// What the next step depends on.
  void list_state(const std::string& name, StateArrays& state);

 private:
  int64_t rows_;
  int64_t cols_;
  Buffer<float> latent_;
  Buffer<float> mean_;
  Buffer<float> square_;
  Buffer<float> gradient_;
  bool gathered_ = false;  // whether gradient_ holds anything
  Buffer<BFloat16> signs_;
};

}  // namespace subbit
