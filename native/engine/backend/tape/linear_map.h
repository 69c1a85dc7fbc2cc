// A linear layer as the tape sees it: something that multiplies, and can say what its output's
// gradient means for its input and for itself. Whoever tunes a weight registers one of these.
#pragma once

#include <cstdint>
#include <span>

#include "base/matrix.h"

namespace subbit {

class LinearMap {
 public:
  virtual ~LinearMap() = default;

  virtual Shape shape() const = 0;  // [outputs, inputs]
  /// Floats a token that forward() leaves for backward().
  virtual int64_t saved_per_token() const { return 0; }
  /// y = W x. Rows are tokens; `saved` holds rows * saved_per_token() floats.
  virtual void forward(ConstMatrix x, Matrix y, std::span<float> saved) = 0;
  /// grad_x = W^T grad_y, and the map's own gradients grow by this call's share.
  virtual void backward(ConstMatrix x, ConstMatrix grad_y, std::span<const float> saved,
                        Matrix grad_x) = 0;
  /// Added to the output, [outputs], or empty; and where its gradient is gathered, or empty.
  virtual std::span<const float> bias() const { return {}; }
  virtual std::span<float> bias_gradient() { return {}; }
};

}  // namespace subbit
