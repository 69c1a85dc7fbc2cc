// Writes a file so that it either appears whole or not at all: to a temporary name in the same
// directory, flushed to the disk, then renamed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace subbit {

class FileWriter {
 public:
  /// Opens `path` + ".partial" and locks it, taking over what a killed process left there. Throws
  /// kFileError, also when another writer is at work on the same path.
  explicit FileWriter(std::string path);
  /// Without commit() the temporary file is removed.
  ~FileWriter();
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  uint64_t bytes_written() const { return bytes_written_; }
  /// Flushes to the disk and renames over `path`; nothing may be written after. Throws kFileError.
  void commit();

 private:
  void discard();

  std::string path_;
  std::string temporary_path_;
  int descriptor_ = -1;
  uint64_t bytes_written_ = 0;
};

}  // namespace subbit
