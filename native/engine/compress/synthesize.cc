// synthesize(): the files compress() would write for a config, without weights to start from. Signs
// and codes are random; scales are those of a freshly initialised transformer, so that activations
// stay finite and logits vary. One tensor is in memory at a time.
#include <cmath>
#include <filesystem>
#include <functional>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "base/rng.h"
#include "compress/file_order.h"
#include "compress/fit/factored/factored.h"
#include "compress/fit/groups/fit_groups.h"
#include "compress/fold.h"
#include "compress/plan.h"
#include "compress/write.h"
#include "engine.h"
#include "formats/format.h"
#include "io/file_writer.h"
#include "io/json.h"
#include "models/model.h"

namespace subbit {
namespace {

namespace fs = std::filesystem;

/// Logits of this standard deviation make a distribution that is neither flat nor a single token.
constexpr float kLogitDeviation = 2.5f;

struct Invention {
  TensorSpec spec;
  std::function<std::vector<std::byte>()> bytes;
};

SignMatrix random_signs(int64_t rows, int64_t cols, Rng& rng) {
  SignMatrix signs{rows, cols, std::vector<uint8_t>(static_cast<size_t>(rows * cols))};
  uint64_t random = 0;
  size_t drawn = 0;
  for (uint8_t& bit : signs.bits) {
    if (drawn++ % 64 == 0) random = rng.next();
    bit = random & 1;
    random >>= 1;
  }
  return signs;
}

/// Values around `size`, within a quarter of it.
std::vector<float> random_scales(int64_t count, float size, Rng& rng) {
  std::vector<float> scales(static_cast<size_t>(count));
  for (float& scale : scales) scale = size * static_cast<float>(0.75 + 0.5 * rng.uniform());
  return scales;
}

/// U V sums `rank` products, each of a sum over `cols` inputs of unit variance: dividing by the
/// root of both leaves outputs of variance `gain` squared.
std::vector<std::byte> invent_linear(const LinearPlan& plan, float gain, uint64_t seed) {
  CHECK(is_factored(plan.size));
  const int64_t rank = plan.size.terms[0].rank;
  const Shape shape = plan.size.shape;
  Rng rng(seed);
  FactoredFit fit;
  fit.v = random_signs(rank, shape.cols, rng);
  fit.u = random_signs(shape.rows, rank, rng);
  const auto summed = static_cast<float>(rank) * static_cast<float>(shape.cols);
  fit.s_post = random_scales(shape.rows, gain / std::sqrt(summed), rng);
  fit.s_pre = random_scales(shape.cols, 1.0f, rng);
  return pack_factored(fit, plan.size.own_pre_scale, {});
}

std::vector<std::byte> ones(int64_t count) {
  const std::vector<Half> values(static_cast<size_t>(count), to_half(1.0f));
  const auto bytes = std::as_bytes(std::span(values));
  return {bytes.begin(), bytes.end()};
}

Invention norm(const std::string& name, int64_t count) {
  return {{name, DType::kF16, {count}}, [count] { return ones(count); }};
}

/// The linears and norms of all blocks, with sizes and no terms yet.
CompressionPlan outline(const Manifest& manifest, const ModelConfig& config) {
  CompressionPlan plan;
  for (const BlockSpec& block : manifest.blocks) {
    BlockPlan& planned = plan.blocks.emplace_back();
    for (const LinearSpec& spec : block.linears) {
      LinearPlan& linear = planned.linears.emplace_back();
      linear.spec = &spec;
      linear.size.shape = spec.shape;
      linear.size.own_pre_scale = !folds_away(spec.fold);
    }
    for (const std::string& name : block.norms)
      planned.norms.push_back(
          {name, true, static_cast<uint64_t>(config.hidden_size) * sizeof(Half)});
  }
  return plan;
}

/// Every tensor of the model, and how to make it.
std::vector<Invention> inventions(const Manifest& manifest, const ModelConfig& config,
                                  const CompressionPlan& plan, uint64_t seed) {
  Rng seeds(seed);
  std::vector<Invention> out;
  // What a block adds to the residual stream shrinks with their number (Radford et al. 2019).
  const auto into_residual =
      static_cast<float>(1.0 / std::sqrt(2.0 * static_cast<double>(plan.blocks.size())));
  for (const BlockPlan& block : plan.blocks) {
    for (const LinearPlan& linear : block.linears) {
      const bool adds = linear.spec->fold.into == ScaleFold::Into::kRowsOf;
      const float gain = adds ? into_residual : 1.0f;
      out.push_back(
          {{linear.spec->name + ".packed", DType::kU8, {static_cast<int64_t>(linear.bytes)}},
           [&linear, gain, own = seeds.next()] { return invent_linear(linear, gain, own); }});
    }
    for (const NormPlan& planned : block.norms)
      out.push_back(norm(planned.name, config.hidden_size));
  }
  const Shape shape = {config.vocab_size, config.hidden_size};
  const auto matrix = [&](const std::string& name, float deviation) {
    out.push_back({{name.substr(0, name.rfind('.')) + ".int4",
                    DType::kU8,
                    {static_cast<int64_t>(group_format_bytes(4, shape))}},
                   [=, own = seeds.next()] { return invent_int4(shape, deviation, own); }});
  };
  const float head = kLogitDeviation / std::sqrt(static_cast<float>(config.hidden_size));
  // A tied matrix serves as the head: the embeddings' own size is divided out by the first norm.
  const bool tied = manifest.head == manifest.embedding;
  matrix(manifest.embedding, tied ? head : 1.0f);
  if (!tied) matrix(manifest.head, head);
  out.push_back(norm(manifest.final_norm, config.hidden_size));
  return out;
}

uint64_t bytes_of(const std::vector<Invention>& tensors) {
  uint64_t bytes = 0;
  for (const Invention& tensor : tensors) bytes += static_cast<uint64_t>(tensor.spec.bytes());
  return bytes;
}

/// Found out before the first byte is written, not after the last that fits.
void check_room(const std::string& directory, uint64_t bytes) {
  std::error_code failure;
  const fs::space_info space = fs::space(directory, failure);
  if (failure || space.available >= bytes) return;
  throw Error(ErrorCode::kFileError, "there is not enough room on the disk for " + directory,
              {{"file", directory},
               {"expected", std::to_string(bytes) + " bytes"},
               {"actual", std::to_string(space.available) + " bytes free"}});
}

void write_tensors(const std::string& path, const std::vector<Invention>& tensors,
                   JobControl& control) {
  std::vector<TensorSpec> specs;
  for (const Invention& tensor : tensors) specs.push_back(tensor.spec);
  const std::vector<size_t> order = file_order(specs);
  std::vector<TensorSpec> announced;
  for (const size_t i : order) announced.push_back(specs[i]);
  SafetensorsWriter writer(path, std::move(announced), weight_file_metadata());
  const auto total = static_cast<double>(bytes_of(tensors));
  double written = 0;
  for (const size_t i : order) {
    if (control.abort.load()) throw Error(ErrorCode::kAborted, "aborted");
    const TensorSpec& spec = specs[i];
    if (control.on_progress) control.on_progress({"write", written, total, spec.name});
    writer.write(spec.name, tensors[i].bytes());
    written += static_cast<double>(spec.bytes());
  }
  if (control.on_progress) control.on_progress({"write", total, total, ""});
  writer.commit();
}

}  // namespace

SynthesizeResult synthesize(const SynthesizeRequest& request, JobControl& control) {
  if (request.out.empty())
    throw Error(ErrorCode::kInvalidOption, "no directory to write to", {{"option", "out"}});
  constexpr const char* kWhere = "the config";
  const Json json = Json::parse(request.config, kWhere);
  const Architecture& architecture = find_architecture(json, kWhere);
  const Manifest manifest = architecture.manifest(json, kWhere);
  const ModelConfig config = architecture.parse_config(json, kWhere);
  CompressionPlan plan = outline(manifest, config);
  // Factored terms at one rate for all: an allocation has no weights to choose others by.
  CompressStages stages;
  stages.rates = CompressStages::Rates::kUniform;
  allocate_terms(plan, request.bits_per_weight, stages);
  const std::vector<Invention> tensors = inventions(manifest, config, plan, request.seed);

  make_directories(request.out);
  check_room(request.out, bytes_of(tensors));
  const std::string path = (fs::path(request.out) / "model.safetensors").string();
  write_tensors(path, tensors, control);
  WrittenModel written;
  written.bytes = fs::file_size(path);
  written.bits_per_weight_body = bits_per_weight(plan.body_bytes, plan.body_weights);
  written.bits_per_weight_file = bits_per_weight(written.bytes, manifest.parameters);
  written.most_terms = most_terms(plan);
  FileWriter file((fs::path(request.out) / "config.json").string());
  file.write(compressed_config(json, written));
  file.commit();
  return {manifest.parameters, written.bits_per_weight_body, written.bits_per_weight_file,
          written.bytes};
}

}  // namespace subbit
