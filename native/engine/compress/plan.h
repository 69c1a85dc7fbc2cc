// What a compression will do, fixed before the work begins: the terms of every linear of the body,
// where its input scale goes, and what all of it will weigh. A function of the architecture's
// manifest and the request alone.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

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
};

struct CompressionPlan {
  std::vector<BlockPlan> blocks;
  /// Of the tables that linears share, in the order of their numbers. Their bytes are the body's.
  std::vector<int64_t> table_widths;
  uint64_t body_bytes = 0;
  int64_t body_weights = 0;
};

/// The best use of `bits_per_weight` over the body. `manifest` must outlive the plan. Throws
/// kInvalidOption, naming the least possible bits, when even the smallest forms do not fit.
CompressionPlan plan_compression(const Manifest& manifest, const Model& model,
                                 const Checkpoint& checkpoint, double bits_per_weight,
                                 const CompressStages& stages);

/// The second half of it: gives terms and bytes to an outline, whose linears have none yet and
/// whose norms have their bytes, and counts the body.
void allocate_terms(CompressionPlan& plan, double bits_per_weight, const CompressStages& stages);

}  // namespace subbit
