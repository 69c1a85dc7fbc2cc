// All linears of a block are fitted before any is packed: folding moves one linear's scale into
// another's rows.
#include "compress/block.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <variant>

#include "base/buffer.h"
#include "base/check.h"
#include "base/rng.h"
#include "compress/fit/factored/factored.h"
#include "compress/fold.h"
#include "formats/registry.h"

namespace subbit {
namespace {

std::vector<float> stacked_bias(const Linear& linear) {
  std::vector<float> bias;
  for (const Linear::Part& part : linear.parts) {
    const auto rows = static_cast<size_t>(part.weight->shape().rows);
    CHECK(part.bias.empty() || part.bias.size() == rows);
    if (part.bias.empty()) bias.resize(bias.size() + rows, 0.0f);
    bias.insert(bias.end(), part.bias.begin(), part.bias.end());
  }
  return bias;
}

Buffer<float> stacked_weights(const Linear& linear) {
  Buffer<float> values(linear.shape.count());
  Matrix rest(values.data(), linear.shape.rows, linear.shape.cols);
  for (const Linear::Part& part : linear.parts) {
    const int64_t rows = part.weight->shape().rows;
    part.weight->unpack_rows(0, rest.rows_from(0, rows));
    rest = rest.rows_from(rows, rest.rows - rows);
  }
  CHECK(rest.rows == 0);
  return values;
}

FittedLinear fit_linear(const BlockRequest& request, const LinearPlan& plan, uint64_t seed,
                        ThreadPool& pool, const BlockStep& step) {
  const LinearSpec& spec = *plan.spec;
  const Linear* linear = request.model->find_linear(spec.name);
  CHECK(linear != nullptr && linear->shape == spec.shape);
  const auto moments = request.moments->find(spec.name);
  CHECK(moments != request.moments->end());
  const Buffer<float> weights = stacked_weights(*linear);

  FittedLinear fitted;
  fitted.name = spec.name;
  if (plan.size.own_pre_scale) fitted.pre_scale = PreScale::kOwn;
  if (plan.size.bias) fitted.bias = stacked_bias(*linear);
  FactoredOptions options;
  CHECK(is_factored(plan.size));
  options.rank = plan.size.terms[0].rank;
  options.iterations = request.iterations;
  options.seed = seed;
  Importance importance;
  importance.inputs = moments->second;
  try {
    fitted.fit = fit_factored({weights.data(), spec.shape.rows, spec.shape.cols}, importance,
                              options, pool, [&](int) { step(spec.name); });
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kNonFinite) throw;
    throw Error(ErrorCode::kNonFinite, spec.name + ": " + error.what(), {{"tensor", spec.name}});
  }
  return fitted;
}

FittedLinear& find_fitted(std::vector<FittedLinear>& fitted, const std::string& name) {
  const auto found = std::find_if(fitted.begin(), fitted.end(),
                                  [&](const FittedLinear& linear) { return linear.name == name; });
  CHECK(found != fitted.end());
  return *found;
}

/// Moves s_pre where the plan says and leaves ones behind.
void fold(FittedLinear& linear, const ScaleFold& target, FittedBlock& block) {
  if (linear.pre_scale == PreScale::kOwn) return;
  std::vector<float> s_pre(linear.s_pre().size(), 1.0f);
  std::swap(s_pre, linear.s_pre());
  if (target.into == ScaleFold::Into::kRowsOf) {
    FittedLinear& producer = find_fitted(block.linears, target.target);
    fold_into_rows(target, s_pre, producer.s_post(), producer.bias);
    return;
  }
  for (FittedNorm& norm : block.norms) {
    if (norm.name == target.target) return fold_into_norm(s_pre, norm.values);
  }
  CHECK(false);  // the manifest names a norm that is not the block's
}

std::vector<std::byte> bytes_of(std::span<const Half> values) {
  const auto bytes = std::as_bytes(values);
  return {bytes.begin(), bytes.end()};
}

/// The norm's bytes. A power of two that a folded norm could not hold goes into the linear.
std::vector<std::byte> finish_norm(const FittedNorm& norm, const Checkpoint& checkpoint,
                                   const BlockPlan& plan, std::vector<FittedLinear>& fitted) {
  if (!norm.folded) {
    const TensorView* source = checkpoint.find(norm.name);
    CHECK(source != nullptr);
    return {source->bytes.begin(), source->bytes.end()};
  }
  const HalfNorm half = norm_to_halves(norm.values);
  for (size_t i = 0; i < fitted.size(); ++i) {
    FittedLinear& linear = fitted[i];
    if (linear.pre_scale == PreScale::kOwn) continue;
    if (plan.linears[i].spec->fold.target != norm.name) continue;
    for (float& scale : linear.s_post()) scale = std::ldexp(scale, half.exponent);
  }
  return bytes_of(half.values);
}

FinishedTensor finish_linear(const FittedLinear& linear, const LinearPlan& plan) {
  FinishedTensor tensor;
  const FactoredFit& fit = std::get<FactoredFit>(linear.fit);
  tensor.bytes = pack_factored(fit, plan.size.own_pre_scale, linear.bias);
  CHECK(tensor.bytes.size() == plan.bytes);
  tensor.spec = {plan.spec->name + ".packed", DType::kU8, {static_cast<int64_t>(plan.bytes)}};
  verify_factored(tensor.bytes, fit, plan.spec->name);
  return tensor;
}

CompressedLinear report_on(const FittedLinear& linear, const LinearPlan& plan) {
  const LinearSpec& spec = *plan.spec;
  CompressedLinear report;
  report.name = spec.name;
  report.format = describe_packed(plan.size);
  report.rows = spec.shape.rows;
  report.cols = spec.shape.cols;
  report.bytes = plan.bytes;
  report.bits_per_weight = bits_per_weight(report.bytes, spec.shape.count());
  report.weight_error = linear.weight_error();
  report.output_error = linear.output_error();
  return report;
}

/// A vector's values, whatever float type it has.
std::vector<float> dense_values(const TensorView& tensor) {
  const Shape shape{1, tensor.count()};
  TensorView row = tensor;
  row.shape = {1, shape.cols};
  std::vector<float> values(static_cast<size_t>(shape.cols));
  find_format("dense")->view(row, shape)->unpack_rows(0, {values.data(), 1, shape.cols});
  return values;
}

}  // namespace

std::vector<TensorSpec> tensors_of(const BlockPlan& plan, const Checkpoint& checkpoint) {
  std::vector<TensorSpec> specs;
  for (const LinearPlan& linear : plan.linears) {
    specs.push_back(
        {linear.spec->name + ".packed", DType::kU8, {static_cast<int64_t>(linear.bytes)}});
  }
  for (const NormPlan& norm : plan.norms) {
    const TensorView* source = checkpoint.find(norm.name);
    CHECK(source != nullptr);
    specs.push_back({norm.name, norm.folded ? DType::kF16 : source->dtype, source->shape});
  }
  return specs;
}

FinishedBlock compress_block(const BlockRequest& request, ThreadPool& pool, const BlockStep& step) {
  const BlockPlan& plan = *request.plan;
  Rng seeds(request.seed);
  FittedBlock block;
  for (const LinearPlan& linear : plan.linears)
    block.linears.push_back(fit_linear(request, linear, seeds.next(), pool, step));
  for (const NormPlan& norm : plan.norms) {
    const std::vector<float>* values = request.model->find_norm(norm.name);
    CHECK(values != nullptr);
    block.norms.push_back({norm.name, norm.folded, *values});
  }
  for (size_t i = 0; i < plan.linears.size(); ++i)
    fold(block.linears[i], plan.linears[i].spec->fold, block);
  return pack_block(plan, *request.checkpoint, std::move(block));
}

FinishedBlock pack_block(const BlockPlan& plan, const Checkpoint& checkpoint, FittedBlock block) {
  std::vector<std::vector<std::byte>> norm_bytes;
  for (const FittedNorm& norm : block.norms)
    norm_bytes.push_back(finish_norm(norm, checkpoint, plan, block.linears));

  FinishedBlock finished;
  const std::vector<TensorSpec> specs = tensors_of(plan, checkpoint);
  CHECK(block.linears.size() == plan.linears.size());
  for (size_t i = 0; i < plan.linears.size(); ++i) {
    finished.tensors.push_back(finish_linear(block.linears[i], plan.linears[i]));
    finished.linears.push_back(report_on(block.linears[i], plan.linears[i]));
  }
  for (size_t i = 0; i < block.norms.size(); ++i) {
    const TensorSpec& spec = specs[block.linears.size() + i];
    finished.tensors.push_back({spec, std::move(norm_bytes[i])});
    CHECK(static_cast<int64_t>(finished.tensors.back().bytes.size()) == spec.bytes());
  }
  return finished;
}

FittedBlock unpack_block(const BlockPlan& plan, const SafetensorsFile& file,
                         std::span<const CompressedLinear> reports) {
  FittedBlock block;
  CHECK(reports.size() == plan.linears.size());
  for (size_t i = 0; i < plan.linears.size(); ++i) {
    const LinearPlan& linear = plan.linears[i];
    const TensorView* tensor = file.find(linear.spec->name + ".packed");
    CHECK(tensor != nullptr);
    FittedLinear& fitted = block.linears.emplace_back();
    fitted.name = linear.spec->name;
    if (linear.size.own_pre_scale) fitted.pre_scale = PreScale::kOwn;
    FactoredFit fit = unpack_factored(tensor->bytes, linear.spec->name, fitted.bias);
    fit.weight_error = reports[i].weight_error;
    fit.output_error = reports[i].output_error;
    fitted.fit = std::move(fit);
  }
  for (const NormPlan& norm : plan.norms) {
    const TensorView* tensor = file.find(norm.name);
    CHECK(tensor != nullptr);
    block.norms.push_back({norm.name, norm.folded, dense_values(*tensor)});
  }
  return block;
}

}  // namespace subbit
