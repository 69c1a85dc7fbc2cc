// What is in a model, counted from the file's bytes.
#include "runtime/inspect.h"

#include <map>
#include <optional>
#include <string>

#include "formats/registry.h"
#include "io/checkpoint.h"
#include "models/model.h"

namespace subbit {

std::string_view engine_version() { return "0.1.0"; }

namespace {

bool ends_with(const std::string& text, std::string_view end) { return text.ends_with(end); }

std::string stem(const std::string& name) { return name.substr(0, name.rfind('.')); }

/// What the manifest says of a tensor's name, once its last component is taken off.
struct Known {
  Shape shape;
  bool body = false;
};

std::map<std::string, Known> known_weights(const Manifest& manifest, const ModelConfig& config) {
  std::map<std::string, Known> known;
  // Tables that packed linears share are bytes of those linears.
  known["model.tables"] = {{0, 0}, true};
  for (const BlockSpec& block : manifest.blocks) {
    for (const LinearSpec& linear : block.linears) {
      known[linear.name] = {linear.shape, true};
      for (size_t i = 0; i < linear.parts.size(); ++i) {
        known[linear.parts[i]] = {{linear.part_rows[i], linear.shape.cols}, true};
      }
    }
    for (const std::string& norm : block.norms) known[stem(norm)] = {{0, 0}, true};
  }
  const Shape embedding = {config.vocab_size, config.hidden_size};
  known[stem(manifest.embedding)] = {embedding, false};
  known["lm_head"] = {embedding, false};
  return known;
}

const Format* format_of(const std::string& name) {
  for (const Format* format : all_formats()) {
    if (ends_with(name, "." + std::string(format->name()))) return format;
  }
  return nullptr;  // dense
}

SharedTables tables_of(const Checkpoint& checkpoint) {
  return [&checkpoint](int number) { return checkpoint.find(shared_table_name(number)); };
}

InspectedTensor inspect_one(const Checkpoint& checkpoint, const TensorView& tensor,
                            const std::map<std::string, Known>& known) {
  InspectedTensor out;
  out.name = tensor.name;
  out.bytes = tensor.bytes.size();
  out.shape = tensor.shape;
  out.format = dtype_name(tensor.dtype);
  const auto at = known.find(tensor.name.substr(0, tensor.name.rfind('.')));
  if (at != known.end()) {
    out.body = at->second.body;
    const Shape shape = at->second.shape;
    if (const Format* format = format_of(tensor.name)) {
      out.format = format->view(tensor, shape, tables_of(checkpoint))->describe();
      out.shape = {shape.rows, shape.cols};
    }
  }
  int64_t weights = 1;
  for (const int64_t extent : out.shape) weights *= extent;
  if (weights > 0) out.bits_per_weight = bits_per_weight(out.bytes, weights);
  return out;
}

}  // namespace

Inspection inspect(const std::string& path) { return inspect(Checkpoint::open(path)); }

Inspection inspect(const Checkpoint& checkpoint) {
  const std::string& path = checkpoint.path();
  const Architecture& architecture = find_architecture(checkpoint.config(), path);
  const Manifest manifest = architecture.manifest(checkpoint.config(), path);
  const ModelConfig config = architecture.parse_config(checkpoint.config(), path);
  const auto known = known_weights(manifest, config);

  Inspection out;
  out.architecture = config.model_type;
  out.parameters = manifest.parameters;
  out.bytes = checkpoint.file_bytes();
  out.bits_per_weight_file = bits_per_weight(out.bytes, out.parameters);
  uint64_t body_bytes = 0;
  for (const TensorView& tensor : checkpoint.tensors()) {
    out.tensors.push_back(inspect_one(checkpoint, tensor, known));
    if (out.tensors.back().body) body_bytes += out.tensors.back().bytes;
  }
  int64_t body_weights = 0;
  for (const BlockSpec& block : manifest.blocks) {
    for (const LinearSpec& linear : block.linears) body_weights += linear.shape.count();
  }
  out.bits_per_weight_body = bits_per_weight(body_bytes, body_weights);
  return out;
}

uint64_t weight_bytes_per_token(const Checkpoint& checkpoint) {
  const std::string& path = checkpoint.path();
  const Architecture& architecture = find_architecture(checkpoint.config(), path);
  const Manifest manifest = architecture.manifest(checkpoint.config(), path);
  const ModelConfig config = architecture.parse_config(checkpoint.config(), path);
  const bool tied = manifest.head == manifest.embedding;
  uint64_t bytes = 0;
  for (const TensorView& tensor : checkpoint.tensors()) {
    const bool looked_up = !tied && stem(tensor.name) == stem(manifest.embedding);
    bytes += tensor.bytes.size() / (looked_up ? static_cast<uint64_t>(config.vocab_size) : 1);
  }
  return bytes;
}

UnpackedTensor unpack_tensor(const std::string& path, const std::string& name) {
  const Checkpoint checkpoint = Checkpoint::open(path);
  const TensorView* tensor = checkpoint.find(name);
  if (tensor == nullptr) {
    throw Error(ErrorCode::kInvalidOption, "no tensor " + name + " in " + path,
                {{"file", path}, {"tensor", name}});
  }
  const Architecture& architecture = find_architecture(checkpoint.config(), path);
  const auto known = known_weights(architecture.manifest(checkpoint.config(), path),
                                   architecture.parse_config(checkpoint.config(), path));
  const InspectedTensor facts = inspect_one(checkpoint, *tensor, known);
  if (facts.shape.empty() || facts.shape.size() > 2) {
    throw Error(ErrorCode::kInvalidOption, "tensor " + name + " is no matrix", {{"tensor", name}});
  }
  const Shape shape =
      facts.shape.size() == 2 ? Shape{facts.shape[0], facts.shape[1]} : Shape{1, facts.shape[0]};
  TensorView matrix = *tensor;
  const Format* format = format_of(name);
  if (format == nullptr) {
    format = find_format("dense");
    matrix.shape = {shape.rows, shape.cols};
  }
  UnpackedTensor out = {shape.rows, shape.cols, {}};
  out.values.resize(static_cast<size_t>(shape.count()));
  with_unchanged(checkpoint, [&] {
    format->view(matrix, shape, tables_of(checkpoint))
        ->unpack_rows(0, Matrix(out.values.data(), shape.rows, shape.cols));
  });
  return out;
}

}  // namespace subbit
