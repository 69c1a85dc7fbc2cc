// What a compression will do, fixed before the work begins: the terms of every linear of the body,
// where its input scale goes, what is kept as it is, how the embeddings are stored, and what all of
// it will weigh. A function of the architecture's manifest and the request alone.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "compress/plain.h"
#include "compress/sensitivity.h"
#include "engine.h"
#include "formats/packed/pack.h"
#include "io/checkpoint.h"
#include "models/model.h"

namespace subbit {

struct LinearPlan {
  const LinearSpec* spec = nullptr;
  /// The packed tensor carries s_pre itself where nothing before it can.
  PackedSize size;
  uint64_t bytes = 0;  // packed_bytes(size)
  double predicted_error = 0.0;
};

/// A linear that is not compressed: its matrices one by one, with their biases.
struct KeptLinear {
  const LinearSpec* spec = nullptr;
  std::vector<PlainTensor> weights;  // one a part
  std::vector<PlainTensor> biases;   // one a part, or none
  uint64_t bytes() const;
};

/// A norm of a block: rewritten in halves when a linear's s_pre is folded into it, else copied.
struct NormPlan {
  std::string name;
  bool folded = false;
  uint64_t bytes = 0;
};

struct BlockPlan {
  std::vector<LinearPlan> linears;
  std::vector<NormPlan> norms;
  std::vector<KeptLinear> kept;  // of the block's linears those that are not in `linears`
};

struct CompressionPlan {
  std::vector<BlockPlan> blocks;
  /// Of the tables that linears share, in the order of their numbers. Their bytes are the body's.
  std::vector<int64_t> table_widths;
  /// The embedding and, where it is a matrix of its own, the head.
  std::vector<PlainTensor> ends;
  uint64_t body_bytes = 0;
  int64_t body_weights = 0;
  uint64_t file_bytes = 0;
};

struct CompressionRequest {
  const Manifest* manifest = nullptr;  // outlives the plan
  const Model* model = nullptr;
  const Checkpoint* checkpoint = nullptr;
  CompressTarget target;
  std::vector<KeepRule> keep;
  EndBits ends;
  CompressStages stages;  // rates and forms
  /// Of every linear of the body; empty: an error costs each as much per weight.
  Sensitivities sensitivities;
};

/// The best use of the target. Throws kInvalidOption, naming the least possible, when even the
/// smallest forms do not fit; also for a rule that fits no linear.
CompressionPlan plan_compression(const CompressionRequest& request);

/// Terms of the linear that has most of them, at least 1.
int most_terms(const CompressionPlan& plan);

/// Where there is no model: gives terms and bytes to an outline, whose linears have none yet and
/// whose norms have their bytes, and counts the body.
void allocate_terms(CompressionPlan& plan, double bits_per_weight, const CompressStages& stages);

/// A plan for people and programs. Costs are left out.
CompressPlan describe_plan(const CompressionPlan& plan, const CompressionRequest& request);

/// Bytes of running the model at `context_length` (0: as trained): its file and all beside it, by
/// memory/plan_memory.h, in a process and on threads of a usual size. Not this machine's, because
/// the same request must give the same bytes everywhere.
uint64_t running_bytes(const CompressionPlan& plan, const CompressionRequest& request,
                       int64_t context_length);

/// The tables that linears share as tensors of the file, in the order of their numbers.
std::vector<TensorSpec> table_specs(std::span<const int64_t> widths);

/// All tensors of the weight file, in the order that write_model() gathers them.
std::vector<TensorSpec> planned_tensors(const CompressionPlan& plan, const Manifest& manifest,
                                        const Checkpoint& checkpoint);

}  // namespace subbit
