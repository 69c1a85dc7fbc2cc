// Gathers all tensors, puts them in the file's order, and streams them from the mapped blocks.
#include "compress/write.h"

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "compress/file_order.h"
#include "formats/format.h"
#include "io/file_writer.h"
#include "models/linear_loader.h"

namespace subbit {
namespace {

namespace fs = std::filesystem;

/// Everything there is to write, by name.
std::map<std::string, std::span<const std::byte>> tensors_by_name(const WriteRequest& request,
                                                                  std::vector<TensorSpec>& specs) {
  std::map<std::string, std::span<const std::byte>> bytes;
  const auto add = [&](const TensorSpec& spec, std::span<const std::byte> data) {
    specs.push_back(spec);
    bytes[spec.name] = data;
  };
  for (const StoredBlock& block : *request.blocks)
    for (const TensorView& tensor : block.file->tensors())
      add({tensor.name, tensor.dtype, tensor.shape}, tensor.bytes);
  if (request.tables != nullptr)
    for (const FinishedTensor& tensor : *request.tables) add(tensor.spec, tensor.bytes);
  for (const FinishedTensor& tensor : *request.ends) add(tensor.spec, tensor.bytes);
  const TensorView* norm = request.checkpoint->find(request.manifest->final_norm);
  CHECK(norm != nullptr);
  add({norm->name, norm->dtype, norm->shape}, norm->bytes);
  return bytes;
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

std::string compressed_config(const Json& source, const WrittenModel& written) {
  JsonObject bits;
  bits.emplace_back("body", Json(written.bits_per_weight_body));
  bits.emplace_back("file", Json(written.bits_per_weight_file));
  JsonObject quantization;
  quantization.emplace_back("quant_method", Json(std::string("subbit")));
  quantization.emplace_back("layout_version", Json(int64_t{kLayoutVersion}));
  quantization.emplace_back("bits_per_weight", Json(std::move(bits)));
  quantization.emplace_back("most_terms", Json(int64_t{written.most_terms}));
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
  std::vector<TensorSpec> specs;
  const auto bytes = tensors_by_name(request, specs);
  specs = in_file_order(std::move(specs));
  make_directories(request.directory);
  const std::string path = (fs::path(request.directory) / "model.safetensors").string();

  SafetensorsWriter writer(path, specs, weight_file_metadata());
  for (size_t i = 0; i < specs.size(); ++i) {
    const std::string& name = specs[i].name;
    if (control.abort.load()) throw Error(ErrorCode::kAborted, "compression was aborted");
    if (control.on_progress) {
      control.on_progress(
          {"write", static_cast<double>(i), static_cast<double>(specs.size()), name});
    }
    writer.write(name, bytes.at(name));
  }
  writer.commit();

  WrittenModel written;
  written.bytes = fs::file_size(path);
  written.bits_per_weight_body = bits_per_weight(body_bytes(request), request.plan->body_weights);
  written.bits_per_weight_file = bits_per_weight(written.bytes, request.manifest->parameters);
  written.most_terms = most_terms(*request.plan);
  FileWriter config((fs::path(request.directory) / "config.json").string());
  config.write(compressed_config(request.checkpoint->config(), written));
  config.commit();
  return written;
}

}  // namespace subbit
