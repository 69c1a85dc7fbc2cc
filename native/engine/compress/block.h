// Compresses one decoder block: fits its linears, folds their input scales, packs, and checks the
// packed bytes against the fit.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "compress/calibrate.h"
#include "compress/fit/fitted_block.h"
#include "compress/plan.h"
#include "engine.h"
#include "io/safetensors.h"
#include "models/model.h"

namespace subbit {

/// A tensor of the compressed model and its bytes.
struct FinishedTensor {
  TensorSpec spec;
  std::vector<std::byte> bytes;
};

struct FinishedBlock {
  std::vector<FinishedTensor> tensors;  // each linear's `.packed`, then the norms
  std::vector<CompressedLinear> linears;
};

struct BlockRequest {
  const BlockPlan* plan = nullptr;
  const Model* model = nullptr;  // the block as yet uncompressed
  const Checkpoint* checkpoint = nullptr;
  const InputMoments* moments = nullptr;
  int iterations = 0;
  uint64_t seed = 0;
};

/// Called before every iteration of every fit with the linear's name; may throw to end the work.
using BlockStep = std::function<void(const std::string& linear)>;

/// The tensors announced in advance: names, types and sizes depend on the plan alone.
std::vector<TensorSpec> tensors_of(const BlockPlan& plan, const Checkpoint& checkpoint);

/// The tensors of `block`, each packed linear read back and compared. Throws kNonFinite.
FinishedBlock pack_block(const BlockPlan& plan, const Checkpoint& checkpoint, FittedBlock block);
/// What pack_block packed into `file`, as the runtime reads it.
FittedBlock unpack_block(const BlockPlan& plan, const SafetensorsFile& file,
                         std::span<const CompressedLinear> reports);

/// Throws kNonFinite naming the tensor, or what `step` throws. Memory: the factors of all the
/// block's linears, one byte a sign, and fit_factored's for the one at work.
FinishedBlock compress_block(const BlockRequest& request, ThreadPool& pool, const BlockStep& step);

}  // namespace subbit
