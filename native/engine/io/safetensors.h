// Reading and writing the safetensors container. A reader proves the whole header before it hands
// out a view: sizes, shapes, dtypes, no overlap, no hole, nothing past the end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/mapped_file.h"

namespace subbit {

enum class DType { kF32, kF16, kBF16, kU8, kI8, kU16, kU32, kI32, kI64, kF64 };

std::string_view dtype_name(DType dtype);  // "F32", as the container spells it
int64_t dtype_bytes(DType dtype);

/// A tensor inside a mapped file (or inside a checkpoint's own memory). Shape [..], row-major. The
/// container does not align its tensors: only Checkpoint's views may be read through a pointer of
/// their dtype.
struct TensorView {
  std::string name;
  DType dtype = DType::kU8;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
  int64_t count() const;
};

class SafetensorsHeader;  // io/safetensors_header.h

class SafetensorsFile {
 public:
  enum class Part {
    kWhole,
    /// The header is read, not mapped, and behind it lies address space that faults when touched,
    /// as long as the header says. The file may end with its header.
    kHeader,
  };

  /// Maps and proves the file. Throws kFileError, kCorruptFile or kUnsupportedFormat (a dtype).
  explicit SafetensorsFile(const std::string& path, Part part = Part::kWhole);

  const std::string& path() const { return path_; }
  /// Null where only the header was read.
  const std::shared_ptr<const MappedFile>& mapping() const { return mapping_; }
  uint64_t file_bytes() const { return bytes_.size(); }
  /// In file order.
  const std::vector<TensorView>& tensors() const { return tensors_; }
  const TensorView* find(std::string_view name) const;
  const std::vector<std::pair<std::string, std::string>>& metadata() const { return metadata_; }

 private:
  std::string path_;
  std::shared_ptr<const MappedFile> mapping_;
  std::shared_ptr<const SafetensorsHeader> header_;
  std::span<const std::byte> bytes_;
  std::vector<TensorView> tensors_;
  std::vector<std::pair<std::string, std::string>> metadata_;
};

/// The same proof over bytes in memory: what the fuzzer calls. Views point into `bytes`.
std::vector<TensorView> parse_safetensors(
    std::span<const std::byte> bytes, std::string_view where,
    std::vector<std::pair<std::string, std::string>>* metadata);

/// What a writer must know before the first byte of data is written.
struct TensorSpec {
  std::string name;
  DType dtype = DType::kU8;
  std::vector<int64_t> shape;
  int64_t bytes() const;
};

/// Data starts at a multiple of this, so that a 16 KiB-page machine can hand the mapping to its
/// GPU.
inline constexpr int64_t kSafetensorsAlignment = 16384;

/// Streams a file: the header first, then each tensor's bytes in the order announced, then commit.
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::string& path, std::vector<TensorSpec> tensors,
                    std::vector<std::pair<std::string, std::string>> metadata);
  ~SafetensorsWriter();
  /// The next announced tensor, whole; name and length are checked against the announcement.
  void write(std::string_view name, std::span<const std::byte> bytes);
  /// All tensors written; flush and rename. Throws kFileError.
  void commit();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace subbit
