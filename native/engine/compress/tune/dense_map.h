// A linear that is still floats: while its block is compressed around it, it may move to absorb the
// error of what is compressed already.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "backend/tape/linear_map.h"
#include "base/buffer.h"
#include "base/thread_pool.h"
#include "compress/tune/adam.h"

namespace subbit {

/// Floats, row-major, and a bias or none.
struct DenseLinear {
  Shape shape;
  std::vector<float> values;
  std::vector<float> bias;

  ConstMatrix matrix() const { return {values.data(), shape.rows, shape.cols}; }
};

/// The weights of a linear's parts, stacked by rows, and their biases (zeros where only some have
/// one; none where none has).
DenseLinear stacked_linear(const Linear& linear);

enum class Movement { kStands, kMoves };

/// Memory: 4 bytes a weight, 16 where it moves. The bias stands.
class DenseMap final : public LinearMap {
 public:
  DenseMap(DenseLinear linear, Movement movement, ThreadPool& pool);

  Shape shape() const override { return linear_.shape; }
  void forward(ConstMatrix x, Matrix y, std::span<float> saved) override;
  void backward(ConstMatrix x, ConstMatrix grad_y, std::span<const float> saved,
                Matrix grad_x) override;
  std::span<const float> bias() const override { return linear_.bias; }

  const DenseLinear& linear() const { return linear_; }
  /// d loss / d values, gathered since the last step; empty where it stands.
  std::span<const float> gradient() const { return gradient_.span(); }
  double gradient_squares() const;
  /// `adam.rate` is relative to the root mean square of the weights.
  void step(const AdamStep& adam);
  void drop_gradient();

 private:
  DenseLinear linear_;
  ThreadPool& pool_;
  Buffer<float> gradient_;
  Buffer<float> mean_;
  Buffer<float> square_;
};

}  // namespace subbit
