// Turns the manifest into allocation units, the target into a budget for them, and the allocator's
// answer into a plan.
#include "compress/plan.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <set>
#include <span>
#include <string>
#include <utility>

#include "base/check.h"
#include "compress/allocate.h"
#include "compress/block.h"
#include "compress/candidates.h"
#include "compress/file_order.h"
#include "compress/fit/factored/factored.h"
#include "compress/fold.h"
#include "compress/keep_rules.h"
#include "formats/term.h"

namespace subbit {
namespace {

using Unit = CompressTarget::Unit;

bool has_bias(const Model& model, const LinearSpec& spec) {
  const Linear* linear = model.find_linear(spec.name);
  CHECK(linear != nullptr);
  return std::any_of(linear->parts.begin(), linear->parts.end(),
                     [](const Linear::Part& part) { return !part.bias.empty(); });
}

KeptLinear keep_linear(const LinearSpec& spec, int bits, const Checkpoint& checkpoint) {
  KeptLinear kept;
  kept.spec = &spec;
  for (size_t i = 0; i < spec.parts.size(); ++i) {
    const std::string& part = spec.parts[i];
    const Shape shape{spec.part_rows[i], spec.shape.cols};
    kept.weights.push_back(plan_plain(checkpoint, part + ".weight", shape, bits));
    if (checkpoint.find(part + ".bias") == nullptr) continue;
    kept.biases.push_back(plan_plain(checkpoint, part + ".bias", {1, shape.rows}, kAsStored));
  }
  return kept;
}

AllocationUnit unit_for(const LinearPlan& plan, const CompressStages& stages,
                        const Sensitivities& measured) {
  const LinearSpec& spec = *plan.spec;
  AllocationUnit unit;
  unit.name = spec.name;
  unit.candidates = candidates_of(plan.size, stages.forms);
  // The published recipe, to compare with, knows no other form.
  if (stages.rates == CompressStages::Rates::kUniform)
    std::erase_if(unit.candidates, [](const Candidate& form) { return !is_factored(form.size); });
  // Unmeasured, damage to a model spreads over its weights: per weight, an equal error costs about
  // the same in every kind of linear (72 % of the KL sits in the MLP, which holds two thirds).
  const auto known = measured.find(spec.name);
  unit.sensitivity =
      known != measured.end() ? known->second : static_cast<double>(spec.shape.count());
  return unit;
}

/// With what tables they need.
std::vector<size_t> smallest(std::span<const AllocationUnit> units) {
  return allocate_with_tables(units, least_with_tables(units, table_widths), allocate,
                              table_widths);
}

/// Empty when the smallest candidates do not fit beside what is fixed.
std::vector<size_t> allocate_within(std::span<const AllocationUnit> units, uint64_t body_bytes,
                                    uint64_t fixed_bytes, CompressStages::Rates rates) {
  if (body_bytes < fixed_bytes) return {};
  const auto choose = rates == CompressStages::Rates::kUniform ? allocate_uniformly : allocate;
  return allocate_with_tables(units, body_bytes - fixed_bytes, choose, table_widths);
}

/// Notes which tables the chosen forms share, and counts them.
void count_tables(CompressionPlan& plan) {
  std::set<int64_t> widths;
  for (const BlockPlan& block : plan.blocks)
    for (const LinearPlan& linear : block.linears) widths.merge(table_widths(linear.size));
  plan.table_widths.assign(widths.begin(), widths.end());
  for (const int64_t width : plan.table_widths) plan.body_bytes += shared_table_bytes(width);
}

/// Puts the chosen candidates in place and counts the body.
void choose_forms(CompressionPlan& plan, std::span<const AllocationUnit> units,
                  std::span<const size_t> chosen, uint64_t fixed_bytes) {
  CHECK(chosen.size() == units.size());
  plan.body_bytes = fixed_bytes;
  size_t next = 0;
  for (BlockPlan& block : plan.blocks) {
    for (LinearPlan& linear : block.linears) {
      const Candidate& candidate = units[next].candidates[chosen[next]];
      linear.size = candidate.size;
      linear.bytes = candidate.bytes;
      linear.predicted_error = candidate.error;
      plan.body_bytes += candidate.bytes;
      ++next;
    }
  }
  count_tables(plan);
}

struct Refusal {
  const char* option = "";
  std::string expected;
  std::string actual;
};

[[noreturn]] void refuse_target(const Refusal& refusal) {
  throw Error(ErrorCode::kInvalidOption, "the target does not hold this model in its smallest form",
              {{"option", refusal.option},
               {"expected", "at least " + refusal.expected},
               {"actual", refusal.actual}});
}

std::string number_text(const char* format, double number) {
  char text[48];
  std::snprintf(text, sizeof text, format, number);
  return text;
}

/// Rounded up to three digits, so that asking for the number named works.
Refusal bits_refusal(const char* option, double asked, uint64_t least_bytes, int64_t weights) {
  const double least = std::ceil(bits_per_weight(least_bytes, weights) * 1000.0) / 1000.0;
  return {option, number_text("%.3f", least), number_text("%g", asked)};
}

Refusal bytes_refusal(const char* option, double asked, uint64_t least_bytes) {
  return {option, number_text("%.0f bytes", static_cast<double>(least_bytes)),
          number_text("%.0f bytes", asked)};
}

void check_amount(const CompressTarget& target) {
  const bool is_bits = target.unit == Unit::kBodyBits || target.unit == Unit::kFileBits;
  if (target.amount > 0.0 && target.amount <= (is_bits ? 64.0 : 9e15)) return;
  throw Error(
      ErrorCode::kInvalidOption,
      is_bits ? "the bits per weight make no sense" : "the bytes make no sense",
      {{"option", "target"}, {"expected", "above 0"}, {"actual", std::to_string(target.amount)}});
}

/// The plan as it takes shape, with what only the allocator needs beside it.
class Planning {
 public:
  explicit Planning(const CompressionRequest& request) : request_(request) {}
  CompressionPlan run();

 private:
  void add_block(const BlockSpec& block);
  LinearPlan start_linear(const LinearSpec& spec, const std::set<std::string>& kept) const;
  NormPlan plan_norm(const std::string& name, const BlockSpec& block,
                     const std::set<std::string>& kept) const;
  void plan_ends();
  void choose(std::span<const size_t> chosen);
  void meet_body_target();
  void meet_file_target();
  uint64_t limit() const;
  uint64_t bytes() const;
  [[noreturn]] void refuse() const;

  const CompressionRequest& request_;
  CompressionPlan plan_;
  std::vector<AllocationUnit> units_;
  uint64_t fixed_body_bytes_ = 0;  // norms and what is kept
};

LinearPlan Planning::start_linear(const LinearSpec& spec, const std::set<std::string>& kept) const {
  LinearPlan plan;
  plan.spec = &spec;
  plan.size.shape = spec.shape;
  // A producer that is kept has no row scales to take another's input scale.
  const bool can_take =
      spec.fold.into != ScaleFold::Into::kRowsOf || !kept.contains(spec.fold.target);
  plan.size.own_pre_scale = !folds_away(spec.fold) || !can_take;
  plan.size.bias = has_bias(*request_.model, spec);
  return plan;
}

NormPlan Planning::plan_norm(const std::string& name, const BlockSpec& block,
                             const std::set<std::string>& kept) const {
  const auto targets =
      std::count_if(block.linears.begin(), block.linears.end(), [&](const LinearSpec& spec) {
        return spec.fold.into == ScaleFold::Into::kNorm && spec.fold.target == name &&
               !kept.contains(spec.name);
      });
  CHECK(targets <= 1);  // two linears cannot both have moved their scale into one norm
  const TensorView* tensor = request_.checkpoint->find(name);
  CHECK(tensor != nullptr);
  const bool folded = targets == 1;
  return {name, folded,
          folded ? static_cast<uint64_t>(tensor->count()) * sizeof(Half) : tensor->bytes.size()};
}

void Planning::add_block(const BlockSpec& block) {
  BlockPlan& planned = plan_.blocks.emplace_back();
  std::set<std::string> kept;
  for (const LinearSpec& spec : block.linears) {
    plan_.body_weights += spec.shape.count();
    const KeepRule* rule = rule_for(request_.keep, spec);
    const int bits = rule == nullptr ? 0 : kept_bits(*rule);
    if (bits == 0) continue;
    planned.kept.push_back(keep_linear(spec, bits, *request_.checkpoint));
    fixed_body_bytes_ += planned.kept.back().bytes();
    kept.insert(spec.name);
  }
  for (const LinearSpec& spec : block.linears) {
    if (kept.contains(spec.name)) continue;
    planned.linears.push_back(start_linear(spec, kept));
    units_.push_back(unit_for(planned.linears.back(), request_.stages, request_.sensitivities));
    if (const KeepRule* rule = rule_for(request_.keep, spec)) apply_rule(*rule, units_.back());
  }
  for (const std::string& norm : block.norms) {
    planned.norms.push_back(plan_norm(norm, block, kept));
    fixed_body_bytes_ += planned.norms.back().bytes;
  }
}

void Planning::plan_ends() {
  const Manifest& manifest = *request_.manifest;
  const Checkpoint& checkpoint = *request_.checkpoint;
  const EndBits& bits = request_.ends;
  const bool tied = manifest.head == manifest.embedding;
  const int head = bits.head == 0 ? bits.embedding : bits.head;
  if (tied && head != bits.embedding) {
    throw Error(ErrorCode::kInvalidOption, "the head of this model is its embedding",
                {{"option", "lmHead"},
                 {"expected", std::to_string(bits.embedding) + ", as the embeddings"},
                 {"actual", std::to_string(head)}});
  }
  const auto add = [&](const std::string& name, int width) {
    const Linear* linear = request_.model->find_linear(name);
    CHECK(linear != nullptr && linear->parts.size() == 1);
    // A tied matrix may lie under either name.
    const std::string source = checkpoint.find(name) == nullptr ? "lm_head.weight" : name;
    plan_.ends.push_back(plan_plain(checkpoint, name, linear->shape, width, source));
  };
  add(manifest.embedding, bits.embedding);
  if (!tied) add(manifest.head, head);
}

void Planning::choose(std::span<const size_t> chosen) {
  choose_forms(plan_, units_, chosen, fixed_body_bytes_);
  plan_.file_bytes = safetensors_bytes(
      in_file_order(planned_tensors(plan_, *request_.manifest, *request_.checkpoint)));
}

void Planning::meet_body_target() {
  const double bits = request_.target.amount * static_cast<double>(plan_.body_weights);
  const auto budget = static_cast<uint64_t>(bits / 8.0);
  const std::vector<size_t> chosen =
      allocate_within(units_, budget, fixed_body_bytes_, request_.stages.rates);
  if (chosen.size() != units_.size() || budget < fixed_body_bytes_) refuse();
  choose(chosen);
}

uint64_t Planning::limit() const {
  double limit = request_.target.amount;
  if (request_.target.unit == Unit::kFileBits)
    limit *= static_cast<double>(request_.manifest->parameters) / 8.0;
  return static_cast<uint64_t>(limit);
}

/// What the target limits.
uint64_t Planning::bytes() const {
  if (request_.target.unit != Unit::kMemoryBytes) return plan_.file_bytes;
  return running_bytes(plan_, request_, request_.target.context_length);
}

/// What lies around the body hardly depends on it (the header's numbers have more digits or fewer):
/// the first try nearly always stands.
void Planning::meet_file_target() {
  choose(smallest(units_));
  if (bytes() > limit()) refuse();
  uint64_t body = limit() - (bytes() - plan_.body_bytes);
  for (;;) {
    const std::vector<size_t> chosen =
        allocate_within(units_, body, fixed_body_bytes_, request_.stages.rates);
    if (chosen.size() != units_.size()) refuse();
    choose(chosen);
    if (bytes() <= limit()) return;
    body -= std::min(body, bytes() - limit());
  }
}

/// Names the least possible in the target's own unit.
void Planning::refuse() const {
  Planning least(request_);
  for (const BlockSpec& block : request_.manifest->blocks) least.add_block(block);
  least.plan_ends();
  least.choose(smallest(least.units_));
  const CompressionPlan& plan = least.plan_;
  const CompressTarget& target = request_.target;
  switch (target.unit) {
    case Unit::kBodyBits:
      refuse_target(
          bits_refusal("target.bitsPerWeight", target.amount, plan.body_bytes, plan.body_weights));
    case Unit::kFileBits:
      refuse_target(bits_refusal("target.fileBitsPerWeight", target.amount, plan.file_bytes,
                                 request_.manifest->parameters));
    case Unit::kFileBytes:
      refuse_target(bytes_refusal("target.bytes", target.amount, plan.file_bytes));
    case Unit::kMemoryBytes:
      break;
  }
  refuse_target(bytes_refusal("target.fitsBudget", target.amount, least.bytes()));
}

void check_target(const CompressTarget& target, const ModelConfig& config) {
  check_amount(target);
  const int64_t context = target.context_length;
  if (context >= 0 && context <= config.max_position_embeddings) return;
  throw Error(ErrorCode::kInvalidOption, "the model was not trained with so long a context",
              {{"option", "target.contextLength"},
               {"expected", "at most " + std::to_string(config.max_position_embeddings)},
               {"actual", std::to_string(context)}});
}

CompressionPlan Planning::run() {
  check_target(request_.target, request_.model->config());
  check_rules(request_.keep, *request_.manifest);
  for (const BlockSpec& block : request_.manifest->blocks) add_block(block);
  plan_ends();
  if (request_.target.unit == Unit::kBodyBits) {
    meet_body_target();
  } else {
    meet_file_target();
  }
  return std::move(plan_);
}

}  // namespace

uint64_t KeptLinear::bytes() const {
  uint64_t sum = 0;
  for (const auto* plains : {&weights, &biases})
    for (const PlainTensor& plain : *plains) sum += static_cast<uint64_t>(plain.spec.bytes());
  return sum;
}

CompressionPlan plan_compression(const CompressionRequest& request) {
  return Planning(request).run();
}

void allocate_terms(CompressionPlan& plan, double bits, const CompressStages& stages) {
  check_amount({Unit::kBodyBits, bits});
  std::vector<AllocationUnit> units;
  uint64_t norm_bytes = 0;
  plan.body_weights = 0;
  for (const BlockPlan& block : plan.blocks) {
    for (const LinearPlan& linear : block.linears) {
      units.push_back(unit_for(linear, stages, {}));
      plan.body_weights += linear.spec->shape.count();
    }
    for (const NormPlan& norm : block.norms) norm_bytes += norm.bytes;
  }
  const auto budget = static_cast<uint64_t>(bits * static_cast<double>(plan.body_weights) / 8.0);
  const std::vector<size_t> chosen = allocate_within(units, budget, norm_bytes, stages.rates);
  if (chosen.size() != units.size()) {
    choose_forms(plan, units, smallest(units), norm_bytes);
    refuse_target(bits_refusal("target.bitsPerWeight", bits, plan.body_bytes, plan.body_weights));
  }
  choose_forms(plan, units, chosen, norm_bytes);
}

std::vector<TensorSpec> table_specs(std::span<const int64_t> widths) {
  std::vector<TensorSpec> specs;
  for (size_t t = 0; t < widths.size(); ++t)
    specs.push_back(
        {shared_table_name(static_cast<int>(t)), DType::kI8, {kTableEntries, widths[t]}});
  return specs;
}

std::vector<TensorSpec> planned_tensors(const CompressionPlan& plan, const Manifest& manifest,
                                        const Checkpoint& checkpoint) {
  std::vector<TensorSpec> specs;
  for (const BlockPlan& block : plan.blocks) {
    const std::vector<TensorSpec> own = tensors_of(block, checkpoint);
    specs.insert(specs.end(), own.begin(), own.end());
  }
  const std::vector<TensorSpec> tables = table_specs(plan.table_widths);
  specs.insert(specs.end(), tables.begin(), tables.end());
  for (const PlainTensor& end : plan.ends) specs.push_back(end.spec);
  const TensorView* norm = checkpoint.find(manifest.final_norm);
  CHECK(norm != nullptr);
  specs.push_back({norm->name, norm->dtype, norm->shape});
  return specs;
}

}  // namespace subbit
