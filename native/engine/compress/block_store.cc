// Each block is a small safetensors file whose metadata carries the report on its linears.
#include "compress/block_store.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "io/file_writer.h"
#include "io/json.h"
#include "io/mapped_file.h"

namespace subbit {
namespace {

namespace fs = std::filesystem;

constexpr const char* kReportKey = "linears";
constexpr const char* kFingerprintFile = "request.json";

Json to_json(const CompressedLinear& linear) {
  JsonObject members;
  members.emplace_back("name", Json(linear.name));
  members.emplace_back("format", Json(linear.format));
  members.emplace_back("rows", Json(linear.rows));
  members.emplace_back("cols", Json(linear.cols));
  members.emplace_back("bytes", Json(static_cast<int64_t>(linear.bytes)));
  members.emplace_back("bits_per_weight", Json(linear.bits_per_weight));
  members.emplace_back("weight_error", Json(linear.weight_error));
  members.emplace_back("output_error", Json(linear.output_error));
  return Json(std::move(members));
}

[[noreturn]] void refuse_report(const std::string& where) {
  throw Error(ErrorCode::kCorruptFile, "no report on its linears in " + where, {{"file", where}});
}

const Json& member(const Json& object, const char* key, const std::string& where) {
  const Json* value = object.find(key);
  if (value == nullptr) refuse_report(where);
  return *value;
}

std::string text_of(const Json& object, const char* key, const std::string& where) {
  const std::string* text = member(object, key, where).if_string();
  if (text == nullptr) refuse_report(where);
  return *text;
}

int64_t integer_of(const Json& object, const char* key, const std::string& where) {
  const int64_t* number = member(object, key, where).if_int();
  if (number == nullptr) refuse_report(where);
  return *number;
}

double number_of(const Json& object, const char* key, const std::string& where) {
  double number = 0.0;
  if (!member(object, key, where).get_number(number)) refuse_report(where);
  return number;
}

CompressedLinear from_json(const Json& json, const std::string& where) {
  CompressedLinear linear;
  linear.name = text_of(json, "name", where);
  linear.format = text_of(json, "format", where);
  linear.rows = integer_of(json, "rows", where);
  linear.cols = integer_of(json, "cols", where);
  linear.bytes = static_cast<uint64_t>(integer_of(json, "bytes", where));
  linear.bits_per_weight = number_of(json, "bits_per_weight", where);
  linear.weight_error = number_of(json, "weight_error", where);
  linear.output_error = number_of(json, "output_error", where);
  return linear;
}

std::vector<CompressedLinear> read_report(const SafetensorsFile& file) {
  for (const auto& [key, text] : file.metadata()) {
    if (key != kReportKey) continue;
    const Json json = Json::parse(text, file.path());
    const JsonArray* array = json.if_array();
    if (array == nullptr) break;
    std::vector<CompressedLinear> linears;
    for (const Json& element : *array) linears.push_back(from_json(element, file.path()));
    return linears;
  }
  refuse_report(file.path());
}

bool holds(const SafetensorsFile& file, const std::vector<TensorSpec>& expected) {
  if (file.tensors().size() != expected.size()) return false;
  return std::all_of(expected.begin(), expected.end(), [&](const TensorSpec& spec) {
    const TensorView* tensor = file.find(spec.name);
    return tensor != nullptr && tensor->dtype == spec.dtype && tensor->shape == spec.shape &&
           reinterpret_cast<uintptr_t>(tensor->bytes.data()) % sizeof(uint32_t) == 0;
  });
}

void make_directories(const std::string& path) {
  std::error_code failure;
  fs::create_directories(path, failure);
  if (!failure) return;
  throw Error(ErrorCode::kFileError, "cannot make the directory " + path + ": " + failure.message(),
              {{"file", path}});
}

void write_text(const std::string& path, const std::string& text) {
  FileWriter writer(path);
  writer.write(text);
  writer.commit();
}

}  // namespace

BlockStore::BlockStore(const std::string& state_directory, const Fingerprint& fingerprint)
    : parent_(state_directory), directory_((fs::path(state_directory) / fingerprint.key).string()) {
  make_directories(directory_);
  write_text((fs::path(directory_) / kFingerprintFile).string(), fingerprint.text);
}

std::string BlockStore::path_of(int64_t index, BlockStage stage) const {
  char name[40];
  std::snprintf(name, sizeof name, "%s-%05lld.safetensors",
                stage == BlockStage::kFitted ? "block" : "tuned", static_cast<long long>(index));
  return (fs::path(directory_) / name).string();
}

void BlockStore::save(int64_t index, const FinishedBlock& block, BlockStage stage) {
  JsonArray reports;
  for (const CompressedLinear& linear : block.linears) reports.push_back(to_json(linear));
  std::vector<TensorSpec> specs;
  for (const FinishedTensor& tensor : block.tensors) specs.push_back(tensor.spec);
  SafetensorsWriter writer(path_of(index, stage), std::move(specs),
                           {{kReportKey, Json(std::move(reports)).dump()}});
  for (const FinishedTensor& tensor : block.tensors) writer.write(tensor.spec.name, tensor.bytes);
  writer.commit();
}

StoredBlock BlockStore::load(int64_t index, const std::vector<TensorSpec>& expected,
                             BlockStage stage) const {
  const std::string path = path_of(index, stage);
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return {};
  try {
    StoredBlock block;
    block.file = std::make_shared<SafetensorsFile>(path);
    if (!holds(*block.file, expected)) return {};
    block.linears = read_report(*block.file);
    return block;
  } catch (const Error& error) {
    const ErrorCode code = error.code();
    if (code == ErrorCode::kCorruptFile || code == ErrorCode::kUnsupportedFormat) return {};
    throw;
  }
}

std::string BlockStore::path_of_numbers(const std::string& name) const {
  return (fs::path(directory_) / (name + ".json")).string();
}

void BlockStore::save_numbers(const std::string& name, const Numbers& numbers) {
  JsonObject members;
  for (const auto& [key, number] : numbers) members.emplace_back(key, Json(number));
  write_text(path_of_numbers(name), Json(std::move(members)).dump());
}

Numbers BlockStore::load_numbers(const std::string& name) const {
  const std::string path = path_of_numbers(name);
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return {};
  Numbers numbers;
  try {
    const MappedFile file(path);
    const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()),
                                file.bytes().size());
    const Json json = Json::parse(text, path);
    const JsonObject* object = json.if_object();
    if (object == nullptr) return {};
    for (const auto& [key, value] : *object)
      if (!value.get_number(numbers[key])) return {};
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kCorruptFile) return {};
    throw;
  }
  return numbers;
}

void BlockStore::remove() {
  std::error_code ignored;  // what cannot be removed does no harm
  fs::remove_all(directory_, ignored);
  fs::remove(parent_, ignored);  // only when empty
}

}  // namespace subbit
