// The tables of a model, learned before its first block is fitted from weights of all its linears
// that will use them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "base/thread_pool.h"
#include "compress/fit/coded/coded.h"
#include "compress/plan.h"
#include "engine.h"
#include "models/model.h"

namespace subbit {

struct TableRequest {
  const CompressionPlan* plan = nullptr;
  Model* model = nullptr;  // the original
  const Weight* embedding = nullptr;
  /// Of which the first few say how much each input matters.
  std::span<const std::vector<int32_t>> windows;
  uint64_t seed = 0;
};

/// A table for each of the plan's widths. The same request gives the same tables on any number of
/// threads. Throws kAborted, kNonFinite.
std::vector<Table> learn_tables(const TableRequest& request, Backend& backend, ThreadPool& pool,
                                JobControl& control);

}  // namespace subbit
