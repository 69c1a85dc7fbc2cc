// How long the file must be follows from the furthest end that its header announces, not from how
// long it is: a header alone says as much as the whole file.
#include "io/safetensors_header.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <string_view>

#include "base/error.h"
#include "io/json.h"

namespace subbit {
namespace {

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
// Address space is all that is asked for, but it has an end.
constexpr uint64_t kMaxDataBytes = uint64_t{1} << 44;

[[noreturn]] void corrupt(const std::string& path, const std::string& what) {
  throw Error(ErrorCode::kCorruptFile, path + ": " + what, {{"file", path}});
}

std::string read_header(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(ErrorCode::kFileError, path + ": cannot open", {{"file", path}});
  char length_bytes[kLengthBytes] = {};
  uint64_t length = 0;
  file.read(length_bytes, kLengthBytes);
  std::memcpy(&length, length_bytes, sizeof(length));
  if (!file || length > kMaxHeaderBytes) corrupt(path, "no safetensors header");
  std::string text(kLengthBytes + length, '\0');
  std::memcpy(text.data(), length_bytes, kLengthBytes);
  file.read(text.data() + kLengthBytes, static_cast<std::streamsize>(length));
  if (!file) corrupt(path, "the file ends inside its header");
  return text;
}

/// The furthest end of any tensor, as the header says; what it says is proved later.
uint64_t data_bytes(const std::string& header, const std::string& path) {
  const std::string_view text = std::string_view(header).substr(kLengthBytes);
  const Json json = Json::parse(text, path, kLengthBytes);
  if (json.if_object() == nullptr) corrupt(path, "the header is no JSON object");
  uint64_t furthest = 0;
  for (const auto& [name, value] : *json.if_object()) {
    const Json* offsets = value.find("data_offsets");
    const JsonArray* pair = offsets == nullptr ? nullptr : offsets->if_array();
    const int64_t* end = pair == nullptr || pair->size() != 2 ? nullptr : (*pair)[1].if_int();
    if (end != nullptr && *end > 0) furthest = std::max(furthest, static_cast<uint64_t>(*end));
  }
  if (furthest > kMaxDataBytes) corrupt(path, "its data would be larger than any file");
  return furthest;
}

}  // namespace

SafetensorsHeader::SafetensorsHeader(const std::string& path) {
  const std::string header = read_header(path);
  memory_ = ReservedMemory(header.size() + data_bytes(header, path));
  std::memcpy(memory_.data(), header.data(), header.size());
  memory_.forbid(header.size());
}

}  // namespace subbit
