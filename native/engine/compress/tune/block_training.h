// One phase of a block's training: some of its linears move so that the block, fed with what the
// compressed model before it yields, gives what the teacher's block gave in the uncompressed model
// (the target is the teacher's stream, never the teacher's block on the compressed stream: that
// would teach it to keep the errors it is fed with).
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "base/thread_pool.h"
#include "compress/tune/block_student.h"
#include "compress/tune/hidden_states.h"

namespace subbit {

/// What a block is trained on. The last windows are never trained on: they decide which state is
/// kept.
struct BlockData {
  const HiddenStates* inputs = nullptr;   // the compressed stream before the block
  const HiddenStates* targets = nullptr;  // the teacher's stream behind it
  /// What an error of each channel costs; all positive.
  std::vector<float> weights;
};

/// One over each channel's variance in `states`, damped by its mean, their mean one: for a model
/// whose gradients are too large to be had.
std::vector<float> inverse_variances(const HiddenStates& states, ThreadPool& pool);

struct BlockPhase {
  int64_t updates = 0;
  int64_t tokens_per_update = 0;  // at least; whole windows
  BlockRates rates;
  float latent_start = 0.0f;
  uint64_t seed = 0;
};

/// Weighted squared errors on held-out windows, relative to the targets' own squares.
struct PhaseErrors {
  double before = 0.0;
  double after = 0.0;
};

/// Told before every update how many there were and the last error; may throw to end the work.
using PhaseStep = std::function<void(int64_t update, double error)>;

/// The best state met, the first included. Throws kNonFinite when gradients stay not finite.
BlockState train_block(const BlockPlace& place, BlockState state, const BlockData& data,
                       const BlockPhase& phase, ThreadPool& pool, const PhaseStep& step,
                       PhaseErrors* errors);

}  // namespace subbit
