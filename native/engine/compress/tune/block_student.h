// One decoder block while it is tuned: the architecture's own block on a tape, each linear floats
// or fitted, moving or standing, and the distance of its output from what the teacher's block gave.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/tape/tape_backend.h"
#include "base/buffer.h"
#include "base/thread_pool.h"
#include "compress/fit/fitted_block.h"
#include "compress/tune/dense_map.h"
#include "compress/tune/tuned_map.h"
#include "compress/tune/tuned_tables.h"
#include "models/model.h"

namespace subbit {

/// Where a gradient goes, and what it is multiplied by.
struct WeightedErrorGradient {
  Matrix values;
  float scale = 1.0f;
};
/// sum over tokens and channels of weights_c (output - target)_c^2, and its gradient.
double weighted_error(ConstMatrix output, ConstMatrix target, std::span<const float> weights,
                      const WeightedErrorGradient* gradient, ThreadPool& pool);

/// A linear on its way from floats to signs: `dense` until there is a fit.
struct BlockLinear {
  std::string name;
  DenseLinear dense;
  std::optional<FittedLinear> fitted;
  Movement movement = Movement::kStands;
};

/// A block between two phases of its compression.
struct BlockState {
  std::vector<BlockLinear> linears;  // in the order of the block's plan
  std::vector<FittedNorm> norms;
  Movement norms_movement = Movement::kStands;  // of the folded ones; the others never move
};

struct BlockRates {
  float dense = 0.0f;  // of the root mean square of the weights
  float latents = 0.0f;
  float scales = 0.0f;  // and of the norms
};

struct BlockPlace {
  Model* model = nullptr;  // its norms are replaced by the state's
  int64_t index = 0;
  int64_t longest_window = 0;
  std::span<const Table> tables;  // of coded linears; they stand, for other blocks share them
};

/// Memory: 16 bytes a weight that is dense and moves, 4 of one that stands, 20 a sign; one window's
/// activations, tape and mirror.
class BlockStudent {
 public:
  /// The model must outlive this.
  BlockStudent(const BlockPlace& place, BlockState state, float latent_start, ThreadPool& pool);

  enum class Pass { kForward, kForwardAndBackward };
  /// weighted_error of the block's output. Backward, its gradient times `scale` is gathered for the
  /// next step.
  double run(ConstMatrix input, ConstMatrix target, std::span<const float> weights, Pass pass,
             float scale);

  /// The gathered gradients' norm; once before step().
  double finish_gradients();
  /// `adam` without a rate.
  void step(const AdamStep& adam, const BlockRates& rates);
  void drop_gradients();
  BlockState state() const;
  /// What is gathered for the weights of a linear that is dense and moves.
  std::span<const float> dense_gradient(size_t linear) const;

 private:
  struct Map {
    std::unique_ptr<DenseMap> dense;
    std::unique_ptr<TunedMap> fitted;
  };
  struct Norm {
    size_t index = 0;
    TunedVector values;
  };
  void put_norms();

  Model& model_;
  int64_t index_;
  ThreadPool& pool_;
  BlockState state_;
  std::unique_ptr<Backend> compute_;
  Buffer<float> storage_;
  Activations activations_;
  Buffer<float> keys_;
  Buffer<float> values_;
  int64_t longest_;
  TunedTables tables_;
  std::vector<Map> maps_;
  std::vector<Norm> norms_;
  std::unique_ptr<TapeBackend> tape_;
};

}  // namespace subbit
