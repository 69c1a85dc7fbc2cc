// The steps of compressing one decoder block that need no training: fits a linear, folds input
// scales, packs, and checks the packed bytes against the fit. Their order is block_stages.h's.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "compress/finished_tensor.h"
#include "compress/fit/fitted_block.h"
#include "compress/plan.h"
#include "compress/tune/dense_map.h"
#include "engine.h"
#include "io/safetensors.h"
#include "models/model.h"

namespace subbit {

struct FinishedBlock {
  std::vector<FinishedTensor> tensors;  // each linear's `.packed`, then the norms
  std::vector<CompressedLinear> linears;
};

/// Called before every iteration of every fit with the linear's name; may throw to end the work.
using BlockStep = std::function<void(const std::string& linear)>;

/// Rounds of a coded fit: the error hardly falls after the third.
inline constexpr int kCodedRounds = 3;

struct LinearFitRequest {
  const LinearPlan* plan = nullptr;
  const DenseLinear* weights = nullptr;
  Importance importance;
  ConstMatrix covariance;         // of the inputs, where the plan's form asks for it
  std::span<const Table> tables;  // the model's
  int iterations = 0;
  uint64_t seed = 0;
};

/// Throws kNonFinite naming the tensor, or what `step` throws. The linear keeps its s_pre.
/// Memory: fit_factored's or fit_coded's.
FittedLinear fit_linear(const LinearFitRequest& request, ThreadPool& pool, const BlockStep& step);

/// Moves every s_pre where the plan says and leaves ones behind.
void fold_scales(const BlockPlan& plan, FittedBlock& block);

/// The tensors announced in advance: names, types and sizes depend on the plan alone.
std::vector<TensorSpec> tensors_of(const BlockPlan& plan, const Checkpoint& checkpoint);

/// The tensors of `block`, each packed linear read back and compared. Throws kNonFinite.
FinishedBlock pack_block(const BlockPlan& plan, const Checkpoint& checkpoint, FittedBlock block,
                         std::span<const Table> tables);
/// A linear that is kept as the block's file holds it: the file must outlive it.
Linear linear_of(const KeptLinear& kept, const SafetensorsFile& file);
/// Rounding to groups knows nothing of the inputs: its output error is taken for its weights'.
CompressedLinear report_on(const KeptLinear& kept, const SafetensorsFile& file,
                           const Checkpoint& checkpoint);
/// What pack_block packed into `file`, as the runtime reads it.
FittedBlock unpack_block(const BlockPlan& plan, const SafetensorsFile& file,
                         std::span<const CompressedLinear> reports, std::span<const Table> tables);

}  // namespace subbit
