// Folding moves one linear's scale into another's rows: all of a block are fitted before any is
// packed.
#include "compress/block.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <variant>

#include "base/check.h"
#include "compress/fit/coded/fit_coded.h"
#include "compress/fit/factored/factored.h"
#include "compress/fold.h"
#include "formats/registry.h"

namespace subbit {
namespace {

FittedLinear& find_fitted(std::vector<FittedLinear>& fitted, const std::string& name) {
  const auto found = std::find_if(fitted.begin(), fitted.end(),
                                  [&](const FittedLinear& linear) { return linear.name == name; });
  CHECK(found != fitted.end());
  return *found;
}

/// Moves s_pre where the plan says and leaves ones behind.
void fold(FittedLinear& linear, const ScaleFold& target, FittedBlock& block) {
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

FinishedTensor finish_linear(const FittedLinear& linear, const LinearPlan& plan,
                             std::span<const Table> tables) {
  FinishedTensor tensor;
  const std::string& name = plan.spec->name;
  if (const auto* coded = std::get_if<CodedFit>(&linear.fit)) {
    tensor.bytes = pack_coded(*coded, tables, plan.size.own_pre_scale, linear.bias);
    verify_coded(tensor.bytes, *coded, tables, name);
  } else {
    const auto& fit = std::get<FactoredFit>(linear.fit);
    tensor.bytes = pack_factored(fit, plan.size.own_pre_scale, linear.bias);
    verify_factored(tensor.bytes, fit, name);
  }
  CHECK(tensor.bytes.size() == plan.bytes);
  tensor.spec = {name + ".packed", DType::kU8, {static_cast<int64_t>(plan.bytes)}};
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
  for (const KeptLinear& kept : plan.kept)
    for (const auto* plains : {&kept.weights, &kept.biases})
      for (const PlainTensor& plain : *plains) specs.push_back(plain.spec);
  return specs;
}

namespace {

CodedFit fit_codes(const LinearFitRequest& request, ThreadPool& pool, const BlockStep& step) {
  CodedOptions options;
  options.size = &request.plan->size;
  options.tables = request.tables;
  options.rounds = kCodedRounds;
  return fit_coded(request.weights->matrix(), {request.importance.inputs, request.covariance},
                   options, pool, [&](int) { step(request.plan->spec->name); });
}

FactoredFit fit_signs(const LinearFitRequest& request, ThreadPool& pool, const BlockStep& step) {
  FactoredOptions options;
  CHECK(is_factored(request.plan->size));
  options.rank = request.plan->size.terms[0].rank;
  options.iterations = request.iterations;
  options.seed = request.seed;
  return fit_factored(request.weights->matrix(), request.importance, options, pool,
                      [&](int) { step(request.plan->spec->name); });
}

}  // namespace

FittedLinear fit_linear(const LinearFitRequest& request, ThreadPool& pool, const BlockStep& step) {
  const LinearPlan& plan = *request.plan;
  const std::string& name = plan.spec->name;
  CHECK(request.weights->shape == plan.spec->shape);
  FittedLinear fitted;
  fitted.name = name;
  fitted.pre_scale = PreScale::kOwn;
  if (plan.size.bias) fitted.bias = request.weights->bias;
  try {
    if (is_coded(plan.size))
      fitted.fit = fit_codes(request, pool, step);
    else
      fitted.fit = fit_signs(request, pool, step);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kNonFinite) throw;
    throw Error(ErrorCode::kNonFinite, name + ": " + error.what(), {{"tensor", name}});
  }
  return fitted;
}

void fold_scales(const BlockPlan& plan, FittedBlock& block) {
  for (size_t i = 0; i < plan.linears.size(); ++i) {
    if (plan.linears[i].size.own_pre_scale) continue;
    block.linears[i].pre_scale = PreScale::kFolded;
    fold(block.linears[i], plan.linears[i].spec->fold, block);
  }
}

FinishedBlock pack_block(const BlockPlan& plan, const Checkpoint& checkpoint, FittedBlock block,
                         std::span<const Table> tables) {
  std::vector<std::vector<std::byte>> norm_bytes;
  for (const FittedNorm& norm : block.norms)
    norm_bytes.push_back(finish_norm(norm, checkpoint, plan, block.linears));

  FinishedBlock finished;
  const std::vector<TensorSpec> specs = tensors_of(plan, checkpoint);
  CHECK(block.linears.size() == plan.linears.size());
  for (size_t i = 0; i < plan.linears.size(); ++i) {
    finished.tensors.push_back(finish_linear(block.linears[i], plan.linears[i], tables));
    finished.linears.push_back(report_on(block.linears[i], plan.linears[i]));
  }
  for (size_t i = 0; i < block.norms.size(); ++i) {
    const TensorSpec& spec = specs[block.linears.size() + i];
    finished.tensors.push_back({spec, std::move(norm_bytes[i])});
    CHECK(static_cast<int64_t>(finished.tensors.back().bytes.size()) == spec.bytes());
  }
  for (const KeptLinear& kept : plan.kept)
    for (const auto* plains : {&kept.weights, &kept.biases})
      for (const PlainTensor& plain : *plains)
        finished.tensors.push_back(make_plain(plain, checkpoint));
  return finished;
}

Linear linear_of(const KeptLinear& kept, const SafetensorsFile& file) {
  Linear linear;
  linear.name = kept.spec->name;
  linear.shape = kept.spec->shape;
  const auto bytes_of_plain = [&](const PlainTensor& plain) {
    const TensorView* tensor = file.find(plain.spec.name);
    CHECK(tensor != nullptr);
    return tensor->bytes;
  };
  for (const PlainTensor& plain : kept.weights)
    linear.parts.push_back({view_plain(plain, bytes_of_plain(plain)), {}});
  for (size_t i = 0; i < kept.biases.size(); ++i) {
    const TensorView* bias = file.find(kept.biases[i].spec.name);
    CHECK(bias != nullptr && kept.biases.size() == linear.parts.size());
    linear.parts[i].bias = dense_values(*bias);
  }
  return linear;
}

CompressedLinear report_on(const KeptLinear& kept, const SafetensorsFile& file,
                           const Checkpoint& checkpoint) {
  CompressedLinear report;
  report.name = kept.spec->name;
  report.format = describe_plain(kept.weights[0]);
  report.rows = kept.spec->shape.rows;
  report.cols = kept.spec->shape.cols;
  report.bytes = kept.bytes();
  report.bits_per_weight = bits_per_weight(report.bytes, kept.spec->shape.count());
  double error = 0.0;
  double size = 0.0;
  for (const PlainTensor& plain : kept.weights) {
    const TensorView* tensor = file.find(plain.spec.name);
    CHECK(tensor != nullptr);
    const std::unique_ptr<Weight> before = view_source(plain, checkpoint);
    const std::unique_ptr<Weight> after = view_plain(plain, tensor->bytes);
    std::vector<float> rows(static_cast<size_t>(2 * plain.shape.cols));
    float* const was = rows.data();
    float* const is = was + plain.shape.cols;
    for (int64_t i = 0; i < plain.shape.rows; ++i) {
      before->unpack_rows(i, {was, 1, plain.shape.cols});
      after->unpack_rows(i, {is, 1, plain.shape.cols});
      for (int64_t j = 0; j < plain.shape.cols; ++j) {
        const double difference = static_cast<double>(was[j]) - is[j];
        error += difference * difference;
        size += static_cast<double>(was[j]) * was[j];
      }
    }
  }
  report.weight_error = size > 0.0 ? error / size : 0.0;
  report.output_error = report.weight_error;
  return report;
}

FittedBlock unpack_block(const BlockPlan& plan, const SafetensorsFile& file,
                         std::span<const CompressedLinear> reports, std::span<const Table> tables) {
  FittedBlock block;
  CHECK(reports.size() == plan.linears.size());
  for (size_t i = 0; i < plan.linears.size(); ++i) {
    const LinearPlan& linear = plan.linears[i];
    const TensorView* tensor = file.find(linear.spec->name + ".packed");
    CHECK(tensor != nullptr);
    FittedLinear& fitted = block.linears.emplace_back();
    fitted.name = linear.spec->name;
    if (linear.size.own_pre_scale) fitted.pre_scale = PreScale::kOwn;
    if (is_coded(linear.size))
      fitted.fit = unpack_coded(tensor->bytes, linear.spec->name, tables, fitted.bias);
    else
      fitted.fit = unpack_factored(tensor->bytes, linear.spec->name, fitted.bias);
    std::visit(
        [&](auto& fit) {
          fit.weight_error = reports[i].weight_error;
          fit.output_error = reports[i].output_error;
        },
        fitted.fit);
  }
  for (const NormPlan& norm : plan.norms) {
    const TensorView* tensor = file.find(norm.name);
    CHECK(tensor != nullptr);
    block.norms.push_back({norm.name, norm.folded, dense_values(*tensor)});
  }
  return block;
}

}  // namespace subbit
