// Gathers all tensors, orders them so that each lies as aligned as its length allows, and streams
// them from the mapped blocks.
#include "compress/write.h"

#include <algorithm>
#include <bit>
#include <filesystem>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "compress/fit/int4/fit_int4.h"
#include "formats/format.h"
#include "io/file_writer.h"
#include "models/linear_loader.h"

namespace subbit {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMostAlignment = 128;  // the largest the layouts ask for

struct OutputTensor {
  TensorSpec spec;
  std::span<const std::byte> bytes;
};

/// The largest power of two, up to kMostAlignment, that divides the length: the alignment that this
/// tensor keeps for the next.
uint64_t kept_alignment(const TensorSpec& tensor) {
  const auto length = static_cast<uint64_t>(tensor.bytes());
  return length == 0 ? kMostAlignment : std::min(length & (~length + 1), kMostAlignment);
}

FinishedTensor int4_tensor(const Model& model, const std::string& name) {
  const Linear* linear = model.find_linear(name);
  CHECK(linear != nullptr && linear->parts.size() == 1);
  FinishedTensor tensor;
  tensor.bytes = fit_int4(*linear->parts[0].weight);
  tensor.spec = {name.substr(0, name.rfind('.')) + ".int4",
                 DType::kU8,
                 {static_cast<int64_t>(tensor.bytes.size())}};
  return tensor;
}

std::vector<FinishedTensor> embeddings(const WriteRequest& request) {
  const Manifest& manifest = *request.manifest;
  std::vector<FinishedTensor> tensors;
  tensors.push_back(int4_tensor(*request.model, manifest.embedding));
  if (manifest.head != manifest.embedding)
    tensors.push_back(int4_tensor(*request.model, manifest.head));
  return tensors;
}

std::vector<OutputTensor> in_file_order(const WriteRequest& request,
                                        const std::vector<FinishedTensor>& ends) {
  std::vector<OutputTensor> tensors;
  for (const StoredBlock& block : *request.blocks)
    for (const TensorView& tensor : block.file->tensors())
      tensors.push_back({{tensor.name, tensor.dtype, tensor.shape}, tensor.bytes});
  if (request.tables != nullptr)
    for (const FinishedTensor& tensor : *request.tables)
      tensors.push_back({tensor.spec, tensor.bytes});
  for (const FinishedTensor& tensor : ends) tensors.push_back({tensor.spec, tensor.bytes});
  const TensorView* norm = request.checkpoint->find(request.manifest->final_norm);
  CHECK(norm != nullptr);
  tensors.push_back({{norm->name, norm->dtype, norm->shape}, norm->bytes});
  std::vector<TensorSpec> specs;
  for (const OutputTensor& tensor : tensors) specs.push_back(tensor.spec);
  std::vector<OutputTensor> ordered;
  for (const size_t i : file_order(specs)) ordered.push_back(tensors[i]);
  return ordered;
}

/// Every byte of the blocks' tensors and of the tables their linears share.
uint64_t body_bytes(const WriteRequest& request) {
  uint64_t bytes = 0;
  for (const StoredBlock& block : *request.blocks)
    for (const TensorView& tensor : block.file->tensors()) bytes += tensor.bytes.size();
  if (request.tables != nullptr)
    for (const FinishedTensor& tensor : *request.tables) bytes += tensor.bytes.size();
  return bytes;
}

}  // namespace

std::vector<size_t> file_order(std::span<const TensorSpec> tensors) {
  std::vector<size_t> order;
  for (uint64_t alignment = kMostAlignment; alignment > 0; alignment /= 2)
    for (size_t i = 0; i < tensors.size(); ++i)
      if (kept_alignment(tensors[i]) == alignment) order.push_back(i);
  return order;
}

std::string compressed_config(const Json& source, const WrittenModel& written) {
  JsonObject bits;
  bits.emplace_back("body", Json(written.bits_per_weight_body));
  bits.emplace_back("file", Json(written.bits_per_weight_file));
  JsonObject quantization;
  quantization.emplace_back("quant_method", Json(std::string("subbit")));
  quantization.emplace_back("layout_version", Json(int64_t{kLayoutVersion}));
  quantization.emplace_back("bits_per_weight", Json(std::move(bits)));
  CHECK(source.if_object() != nullptr);
  JsonObject config;
  for (const auto& [key, value] : *source.if_object())
    if (key != "quantization_config") config.emplace_back(key, value);
  config.emplace_back("quantization_config", Json(std::move(quantization)));
  return Json(std::move(config)).dump() + "\n";
}

void make_directories(const std::string& path) {
  std::error_code failure;
  fs::create_directories(path, failure);
  if (failure) {
    throw Error(ErrorCode::kFileError,
                "cannot make the directory " + path + ": " + failure.message(), {{"file", path}});
  }
}

WrittenModel write_model(const WriteRequest& request, JobControl& control) {
  const std::vector<FinishedTensor> ends = embeddings(request);
  const std::vector<OutputTensor> tensors = in_file_order(request, ends);
  make_directories(request.directory);
  const std::string path = (fs::path(request.directory) / "model.safetensors").string();

  std::vector<TensorSpec> specs;
  for (const OutputTensor& tensor : tensors) specs.push_back(tensor.spec);
  SafetensorsWriter writer(path, std::move(specs), {{"format", "pt"}});
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (control.abort.load()) throw Error(ErrorCode::kAborted, "compression was aborted");
    if (control.on_progress) {
      control.on_progress({"write", static_cast<double>(i), static_cast<double>(tensors.size()),
                           tensors[i].spec.name});
    }
    writer.write(tensors[i].spec.name, tensors[i].bytes);
  }
  writer.commit();

  WrittenModel written;
  written.bytes = fs::file_size(path);
  written.bits_per_weight_body = bits_per_weight(body_bytes(request), request.plan->body_weights);
  written.bits_per_weight_file = bits_per_weight(written.bytes, request.manifest->parameters);
  FileWriter config((fs::path(request.directory) / "config.json").string());
  config.write(compressed_config(request.checkpoint->config(), written));
  config.commit();
  return written;
}

}  // namespace subbit
