// Samples from every linear, in proportion to its weights.
#include "compress/learn_tables.h"

#include <algorithm>
#include <map>
#include <string>

#include "base/check.h"
#include "base/rng.h"
#include "compress/calibrate.h"
#include "compress/candidates.h"
#include "compress/fit/coded/tables.h"
#include "compress/tune/dense_map.h"

namespace subbit {
namespace {

constexpr size_t kWindows = 16;
/// 128 for each entry of a table.
constexpr int64_t kSamples = 32768;

/// Of all blocks, in the uncompressed model.
InputMoments moments_of(const TableRequest& request, Backend& backend, ThreadPool& pool,
                        JobControl& control) {
  const auto windows = request.windows.first(std::min(kWindows, request.windows.size()));
  CalibrationStream stream({request.model, request.embedding, windows}, backend, pool);
  InputMoments all;
  for (int64_t i = 0; i < std::ssize(request.plan->blocks); ++i) {
    all.merge(stream.observe(i, control));
    stream.advance(i, control);
  }
  return all;
}

}  // namespace

std::vector<Table> learn_tables(const TableRequest& request, Backend& backend, ThreadPool& pool,
                                JobControl& control) {
  std::vector<Table> tables;
  if (request.plan->table_widths.empty()) return tables;
  const InputMoments moments = moments_of(request, backend, pool, control);
  Rng seeds(request.seed);
  for (const int64_t width : request.plan->table_widths) {
    const auto uses = [&](const LinearPlan& linear) {
      return table_widths(linear.size).contains(width);
    };
    int64_t weights = 0;
    for (const BlockPlan& block : request.plan->blocks)
      for (const LinearPlan& linear : block.linears)
        if (uses(linear)) weights += linear.spec->shape.count();
    CHECK(weights > 0);
    Rng places(seeds.next());
    TableSamples samples{width, {}, {}};
    for (const BlockPlan& block : request.plan->blocks) {
      for (const LinearPlan& linear : block.linears) {
        if (!uses(linear)) continue;
        if (control.abort.load()) throw Error(ErrorCode::kAborted, "compression was aborted");
        const DenseLinear dense = stacked_linear(*request.model->find_linear(linear.spec->name));
        const double share =
            static_cast<double>(linear.spec->shape.count()) / static_cast<double>(weights);
        add_samples(dense.matrix(), moments.at(linear.spec->name),
                    static_cast<int64_t>(share * kSamples), places, pool, samples);
      }
    }
    tables.push_back(learn_table(samples, seeds.next(), pool));
  }
  return tables;
}

}  // namespace subbit
