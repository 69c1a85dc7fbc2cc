// The plan as a table whose rows add up to the file.
#include <algorithm>

#include "backend/cpu/cpu_backend.h"
#include "base/check.h"
#include "compress/plan.h"
#include "decoding/decoder.h"
#include "memory/plan_memory.h"

namespace subbit {
namespace {

using Part = PlannedTensor::Part;

PlannedTensor row(const std::string& name, Part part, Shape shape, uint64_t bytes) {
  PlannedTensor planned;
  planned.name = name;
  planned.part = part;
  planned.rows = shape.rows;
  planned.cols = shape.cols;
  planned.bytes = bytes;
  if (shape.count() > 0) planned.bits_per_weight = bits_per_weight(bytes, shape.count());
  return planned;
}

PlannedTensor row_of(const LinearPlan& linear) {
  PlannedTensor planned = row(linear.spec->name, Part::kBody, linear.spec->shape, linear.bytes);
  planned.format = describe_packed(linear.size);
  planned.predicted_error = linear.predicted_error;
  return planned;
}

PlannedTensor row_of(const KeptLinear& kept) {
  PlannedTensor planned = row(kept.spec->name, Part::kBody, kept.spec->shape, kept.bytes());
  planned.format = describe_plain(kept.weights[0]);
  planned.predicted_error = predicted_plain_error(kept.weights[0]);
  return planned;
}

/// In the order the linears run.
void add_block(const BlockPlan& block, std::vector<PlannedTensor>& rows) {
  std::vector<std::pair<const LinearSpec*, PlannedTensor>> linears;
  for (const LinearPlan& linear : block.linears) linears.emplace_back(linear.spec, row_of(linear));
  for (const KeptLinear& kept : block.kept) linears.emplace_back(kept.spec, row_of(kept));
  // The specs of a block are elements of one vector.
  std::sort(linears.begin(), linears.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  for (auto& [spec, planned] : linears) rows.push_back(std::move(planned));
}

}  // namespace

int most_terms(const CompressionPlan& plan) {
  size_t most = 1;
  for (const BlockPlan& block : plan.blocks)
    for (const LinearPlan& linear : block.linears) most = std::max(most, linear.size.terms.size());
  return static_cast<int>(most);
}

uint64_t running_bytes(const CompressionPlan& plan, const CompressionRequest& request,
                       int64_t context_length) {
  constexpr uint64_t kProcessBytes = uint64_t{64} << 20;  // Node with the addon
  constexpr int kThreads = 8;
  const ModelConfig& config = request.model->config();
  std::vector<TensorLength> tensors;
  for (const TensorSpec& spec : planned_tensors(plan, *request.manifest, *request.checkpoint))
    tensors.push_back({spec.name, static_cast<uint64_t>(spec.bytes())});
  PlanRequest memory;
  memory.config = config;
  memory.widths = request.model->activation_widths();
  memory.weights = weight_facts(*request.manifest, config, tensors, plan.file_bytes);
  memory.weights.most_terms = most_terms(plan);
  memory.backend_scratch = cpu_scratch_bytes;
  memory.options = Decoder::memory_options(
      context_length > 0 ? context_length : config.max_position_embeddings, KvType::kF16);
  memory.process.threads = kThreads;
  memory.process.process_bytes = kProcessBytes;
  return plan_memory(memory).total();
}

CompressPlan describe_plan(const CompressionPlan& plan, const CompressionRequest& request) {
  const Manifest& manifest = *request.manifest;
  CompressPlan out;
  uint64_t norm_bytes = 0;
  uint64_t counted = 0;
  for (const BlockPlan& block : plan.blocks) {
    add_block(block, out.tensors);
    for (const NormPlan& norm : block.norms) norm_bytes += norm.bytes;
  }
  for (const TensorSpec& spec : table_specs(plan.table_widths)) {
    PlannedTensor table = row(spec.name, Part::kBody, {spec.shape[0], spec.shape[1]},
                              static_cast<uint64_t>(spec.bytes()));
    table.format = "shared table";
    out.tensors.push_back(std::move(table));
  }
  for (size_t i = 0; i < plan.ends.size(); ++i) {
    const PlainTensor& end = plan.ends[i];
    PlannedTensor planned = row(end.spec.name, i == 0 ? Part::kEmbedding : Part::kHead, end.shape,
                                static_cast<uint64_t>(end.spec.bytes()));
    planned.format = describe_plain(end);
    planned.predicted_error = predicted_plain_error(end);
    out.tensors.push_back(std::move(planned));
  }
  PlannedTensor norms = row("norms of the blocks", Part::kNorms, {}, norm_bytes);
  norms.format = "F16";
  out.tensors.push_back(norms);
  const TensorView* norm = request.checkpoint->find(manifest.final_norm);
  CHECK(norm != nullptr);
  PlannedTensor last = row(norm->name, Part::kNorms, {1, norm->count()}, norm->bytes.size());
  last.format = "as stored";
  out.tensors.push_back(last);
  for (const PlannedTensor& planned : out.tensors) counted += planned.bytes;
  CHECK(counted <= plan.file_bytes);
  PlannedTensor header = row("header", Part::kHeader, {}, plan.file_bytes - counted);
  header.format = "JSON";
  out.tensors.push_back(header);

  const CompressTarget& target = request.target;
  out.bytes = plan.file_bytes;
  out.body_bytes = plan.body_bytes;
  out.bits_per_weight_body = bits_per_weight(plan.body_bytes, plan.body_weights);
  out.bits_per_weight_file = bits_per_weight(plan.file_bytes, manifest.parameters);
  out.context_length = target.context_length > 0 ? target.context_length
                                                 : request.model->config().max_position_embeddings;
  out.memory_bytes = running_bytes(plan, request, out.context_length);
  return out;
}

}  // namespace subbit
