// Adam (Kingma and Ba 2015) on arrays, and vectors tuned by it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "compress/tune/saved_state.h"

namespace subbit {

/// One update's constants, the same for every parameter of a kind.
struct AdamStep {
  float rate = 0.0f;
  float gradient_scale = 1.0f;  // clipping
  float beta1 = 0.9f;
  float beta2 = 0.99f;
  float correction1 = 1.0f;  // 1 / (1 - beta1^t)
  float correction2 = 1.0f;
};

/// What to add to a parameter. The epsilon is far below any gradient that matters.
inline float adam_delta(float gradient, float& mean, float& square, const AdamStep& step) {
  const float g = gradient * step.gradient_scale;
  mean += (1.0f - step.beta1) * (g - mean);
  square += (1.0f - step.beta2) * (g * g - square);
  return -step.rate * mean * step.correction1 / (std::sqrt(square * step.correction2) + 1e-12f);
}

/// Scales, norms and biases: each entry moves relative to its own size, so that one learning rate
/// serves them all.
class TunedVector {
 public:
  TunedVector() = default;
  explicit TunedVector(std::vector<float> values);

  bool empty() const { return values_.empty(); }
  const std::vector<float>& values() const { return values_; }
  /// d loss / d values, gathered since the last step.
  std::span<float> gradient() { return gradient_; }
  double gradient_squares() const;
  void step(const AdamStep& adam);
  /// What the next step depends on.
  void list_state(const std::string& name, StateArrays& state);
  void drop_gradient() { std::fill(gradient_.begin(), gradient_.end(), 0.0f); }

 private:
  std::vector<float> values_;
  std::vector<float> size_;  // values = size * relative
  std::vector<float> relative_;
  std::vector<float> gradient_;
  std::vector<float> mean_;
  std::vector<float> square_;
};

}  // namespace subbit
