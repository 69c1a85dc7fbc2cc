// Turns the manifest into allocation units and the allocator's answer into a plan.
#include "compress/plan.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <set>

#include "base/check.h"
#include "compress/allocate.h"
#include "compress/candidates.h"
#include "compress/fit/factored/factored.h"
#include "compress/fold.h"
#include "formats/term.h"

namespace subbit {
namespace {

bool has_bias(const Model& model, const LinearSpec& spec) {
  const Linear* linear = model.find_linear(spec.name);
  CHECK(linear != nullptr);
  return std::any_of(linear->parts.begin(), linear->parts.end(),
                     [](const Linear::Part& part) { return !part.bias.empty(); });
}

LinearPlan start_linear(const LinearSpec& spec, const Model& model) {
  LinearPlan plan;
  plan.spec = &spec;
  plan.size.shape = spec.shape;
  plan.size.own_pre_scale = !folds_away(spec.fold);
  plan.size.bias = has_bias(model, spec);
  return plan;
}

NormPlan plan_norm(const std::string& name, const BlockSpec& block, const Checkpoint& checkpoint) {
  const auto targets =
      std::count_if(block.linears.begin(), block.linears.end(), [&](const LinearSpec& spec) {
        return spec.fold.into == ScaleFold::Into::kNorm && spec.fold.target == name;
      });
  CHECK(targets <= 1);  // two linears cannot both have moved their scale into one norm
  const TensorView* tensor = checkpoint.find(name);
  CHECK(tensor != nullptr);
  const bool folded = targets == 1;
  return {name, folded,
          folded ? static_cast<uint64_t>(tensor->count()) * sizeof(Half) : tensor->bytes.size()};
}

AllocationUnit unit_for(const LinearPlan& plan, CompressStages::Forms forms) {
  const LinearSpec& spec = *plan.spec;
  AllocationUnit unit;
  unit.name = spec.name;
  unit.candidates = candidates_of(plan.size, forms);
  // Damage to a model spreads over its weights: per weight, an equal error costs about the same in
  // every kind of linear (72 % of the KL sits in the MLP, which holds two thirds of the weights).
  unit.sensitivity = static_cast<double>(spec.shape.count());
  return unit;
}

[[noreturn]] void refuse_bits(double asked, uint64_t least_bytes, int64_t weights) {
  // Rounded up to three digits, so that asking for the number named works.
  const double least = std::ceil(bits_per_weight(least_bytes, weights) * 1000.0) / 1000.0;
  char expected[48];
  char actual[48];
  std::snprintf(expected, sizeof expected, "at least %.3f", least);
  std::snprintf(actual, sizeof actual, "%g", asked);
  throw Error(ErrorCode::kInvalidOption,
              "so few bits per weight do not hold this model in its smallest form",
              {{"option", "bits"}, {"expected", expected}, {"actual", actual}});
}

void check_bits(double bits) {
  if (bits > 0.0 && bits <= 64.0) return;
  throw Error(ErrorCode::kInvalidOption, "the bits per weight make no sense",
              {{"option", "bits"}, {"expected", "above 0"}, {"actual", std::to_string(bits)}});
}

/// Notes which tables the chosen forms share, and counts them.
void count_tables(CompressionPlan& plan) {
  std::set<int64_t> widths;
  for (const BlockPlan& block : plan.blocks)
    for (const LinearPlan& linear : block.linears) widths.merge(table_widths(linear.size));
  plan.table_widths.assign(widths.begin(), widths.end());
  for (const int64_t width : plan.table_widths) plan.body_bytes += shared_table_bytes(width);
}

}  // namespace

void allocate_terms(CompressionPlan& plan, double bits, const CompressStages& stages) {
  check_bits(bits);
  std::vector<AllocationUnit> units;
  plan.body_bytes = 0;
  plan.body_weights = 0;
  for (const BlockPlan& block : plan.blocks) {
    for (const LinearPlan& linear : block.linears) {
      units.push_back(unit_for(linear, stages.forms));
      if (stages.rates ==
          CompressStages::Rates::kUniform)  // the published recipe knows no other form
        std::erase_if(units.back().candidates,
                      [](const Candidate& form) { return !is_factored(form.size); });
      plan.body_weights += linear.spec->shape.count();
    }
    for (const NormPlan& norm : block.norms) plan.body_bytes += norm.bytes;
  }
  const auto budget = static_cast<uint64_t>(bits * static_cast<double>(plan.body_weights) / 8.0);
  const auto choose =
      stages.rates == CompressStages::Rates::kUniform ? allocate_uniformly : allocate;
  const std::vector<size_t> chosen =
      budget < plan.body_bytes
          ? std::vector<size_t>{}
          : allocate_with_tables(units, budget - plan.body_bytes, choose, table_widths);
  if (chosen.size() != units.size())
    refuse_bits(bits, least_with_tables(units, table_widths) + plan.body_bytes, plan.body_weights);

  size_t next = 0;
  for (BlockPlan& block : plan.blocks) {
    for (LinearPlan& linear : block.linears) {
      const Candidate& candidate = units[next].candidates[chosen[next]];
      linear.size = candidate.size;
      linear.bytes = candidate.bytes;
      plan.body_bytes += candidate.bytes;
      ++next;
    }
  }
  count_tables(plan);
}

CompressionPlan plan_compression(const Manifest& manifest, const Model& model,
                                 const Checkpoint& checkpoint, double bits,
                                 const CompressStages& stages) {
  CompressionPlan plan;
  for (const BlockSpec& block : manifest.blocks) {
    BlockPlan& planned = plan.blocks.emplace_back();
    for (const LinearSpec& spec : block.linears)
      planned.linears.push_back(start_linear(spec, model));
    for (const std::string& norm : block.norms)
      planned.norms.push_back(plan_norm(norm, block, checkpoint));
  }
  allocate_terms(plan, bits, stages);
  return plan;
}

}  // namespace subbit
