// A safetensors file of bytes; its last tensor is the checksum of all before it.
#include "compress/tune/saved_state.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "base/error.h"
#include "io/safetensors.h"

namespace subbit {
namespace {

constexpr const char* kKey = "state_of";
constexpr const char* kChecksum = "checksum";
static_assert(std::endian::native == std::endian::little,
              "states are stored as they lie in memory");

/// FNV-1a (Fowler, Noll, Vo) over words of eight bytes, the last filled up with zeros. Guards
/// against what disks and power cuts do, not against forgers.
class Checksum {
 public:
  void add(std::span<const std::byte> bytes) {
    for (size_t at = 0; at < bytes.size(); at += sizeof(uint64_t)) {
      uint64_t word = 0;
      std::memcpy(&word, bytes.data() + at, std::min(sizeof(word), bytes.size() - at));
      state_ = (state_ ^ word) * 0x100000001B3ull;
    }
  }
  std::span<const std::byte> bytes() const { return std::as_bytes(std::span(&state_, 1)); }

 private:
  uint64_t state_ = 0xCBF29CE484222325ull;
};

TensorSpec spec_of(const std::string& name, std::span<const std::byte> bytes) {
  return {name, DType::kU8, {static_cast<int64_t>(bytes.size())}};
}

bool has_key(const SafetensorsFile& file, const std::string& key) {
  return std::any_of(file.metadata().begin(), file.metadata().end(),
                     [&](const auto& entry) { return entry.first == kKey && entry.second == key; });
}

/// Whether `file` holds exactly `arrays`, undamaged.
bool holds(const SafetensorsFile& file, std::span<const StateArrays::Array> arrays) {
  if (file.tensors().size() != arrays.size() + 1) return false;
  Checksum checksum;
  for (const StateArrays::Array& array : arrays) {
    const TensorView* tensor = file.find(array.name);
    if (tensor == nullptr || tensor->bytes.size() != array.bytes.size()) return false;
    checksum.add(tensor->bytes);
  }
  const TensorView* stored = file.find(kChecksum);
  return stored != nullptr && std::ranges::equal(stored->bytes, checksum.bytes());
}

}  // namespace

void save_state(const std::string& path, const std::string& key, const StateArrays& arrays) {
  Checksum checksum;
  std::vector<TensorSpec> specs;
  for (const StateArrays::Array& array : arrays.arrays()) {
    specs.push_back(spec_of(array.name, array.bytes));
    checksum.add(array.bytes);
  }
  specs.push_back(spec_of(kChecksum, checksum.bytes()));
  SafetensorsWriter writer(path, std::move(specs), {{kKey, key}});
  for (const StateArrays::Array& array : arrays.arrays()) writer.write(array.name, array.bytes);
  writer.write(kChecksum, checksum.bytes());
  writer.commit();
}

StateFound load_state(const std::string& path, const std::string& key, const StateArrays& arrays) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return StateFound::kNone;
  try {
    const SafetensorsFile file(path);
    if (!has_key(file, key) || !holds(file, arrays.arrays())) return StateFound::kUnreadable;
    for (const StateArrays::Array& array : arrays.arrays()) {
      const std::span<const std::byte> stored = file.find(array.name)->bytes;
      std::copy(stored.begin(), stored.end(), array.bytes.begin());
    }
    return StateFound::kLoaded;
  } catch (const Error& error) {
    const ErrorCode code = error.code();
    if (code == ErrorCode::kCorruptFile || code == ErrorCode::kUnsupportedFormat)
      return StateFound::kUnreadable;
    throw;
  }
}

}  // namespace subbit
