// Writes a safetensors file tensor by tensor. The caller announces all of them first, because the
// header comes first in the file and is never rewritten.
#include <algorithm>
#include <array>
#include <cstring>

#include "base/check.h"
#include "io/file_writer.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "io/safetensors_size.h"

namespace subbit {
namespace {

/// The length field and the JSON, padded with spaces (which the format allows) so that the data
/// starts at a multiple of kSafetensorsAlignment.
std::string make_header(const std::vector<TensorSpec>& tensors,
                        const std::vector<std::pair<std::string, std::string>>& metadata) {
  JsonObject members;
  if (!metadata.empty()) {
    JsonObject texts;
    for (const auto& [key, text] : metadata) texts.emplace_back(key, Json(text));
    members.emplace_back("__metadata__", Json(std::move(texts)));
  }
  int64_t offset = 0;
  for (const TensorSpec& tensor : tensors) {
    CHECK(tensor.name != "__metadata__");
    JsonArray shape;
    for (const int64_t size : tensor.shape) shape.push_back(Json(size));
    int64_t end = 0;
    CHECK(!__builtin_add_overflow(offset, tensor.bytes(), &end));
    JsonObject entry;
    entry.emplace_back("dtype", Json(std::string(dtype_name(tensor.dtype))));
    entry.emplace_back("shape", Json(std::move(shape)));
    entry.emplace_back("data_offsets", Json(JsonArray{Json(offset), Json(end)}));
    members.emplace_back(tensor.name, Json(std::move(entry)));
    offset = end;
  }
  std::string header(8, '\0');
  header += Json(std::move(members)).dump();
  const size_t alignment = static_cast<size_t>(kSafetensorsAlignment);
  header.resize((header.size() + alignment - 1) / alignment * alignment, ' ');
  const uint64_t length = header.size() - 8;
  std::memcpy(header.data(), &length, sizeof length);
  return header;
}

void check_unique(const std::vector<TensorSpec>& tensors) {
  std::vector<std::string_view> names;
  for (const TensorSpec& tensor : tensors) names.push_back(tensor.name);
  std::sort(names.begin(), names.end());
  CHECK(std::adjacent_find(names.begin(), names.end()) == names.end());
}

}  // namespace

int64_t TensorSpec::bytes() const {
  int64_t product = dtype_bytes(dtype);
  for (const int64_t size : shape) {
    CHECK(size >= 0);
    CHECK(!__builtin_mul_overflow(product, size, &product));
  }
  return product;
}

uint64_t safetensors_header_bytes(
    const std::vector<TensorSpec>& tensors,
    const std::vector<std::pair<std::string, std::string>>& metadata) {
  return make_header(tensors, metadata).size();
}

struct SafetensorsWriter::State {
  FileWriter file;
  std::vector<TensorSpec> tensors;
  size_t next = 0;
};

SafetensorsWriter::SafetensorsWriter(const std::string& path, std::vector<TensorSpec> tensors,
                                     std::vector<std::pair<std::string, std::string>> metadata) {
  check_unique(tensors);
  const std::string header = make_header(tensors, metadata);
  state_ = std::unique_ptr<State>(new State{FileWriter(path), std::move(tensors), 0});
  state_->file.write(header);
}

SafetensorsWriter::~SafetensorsWriter() = default;

void SafetensorsWriter::write(std::string_view name, std::span<const std::byte> bytes) {
  CHECK(state_->next < state_->tensors.size());
  const TensorSpec& announced = state_->tensors[state_->next];
  const std::string expected_bytes = std::to_string(announced.bytes());
  const std::string actual_bytes = std::to_string(bytes.size());
  if (name != announced.name || actual_bytes != expected_bytes) {
    throw Error(
        ErrorCode::kInternal, "a tensor other than the one announced was written",
        {{"expected", quote_for_message(announced.name) + " of " + expected_bytes + " bytes"},
         {"actual", quote_for_message(name) + " of " + actual_bytes + " bytes"}});
  }
  state_->file.write(bytes);
  ++state_->next;
}

void SafetensorsWriter::commit() {
  CHECK(state_->next == state_->tensors.size());
  state_->file.commit();
}

}  // namespace subbit
