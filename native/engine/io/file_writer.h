// Writes a file so that it either appears whole or not at all: to a temporary name in the same
// directory, flushed to the disk, then renamed. Bytes go out in blocks of a huge page, which Linux
// keeps in its cache as such: a model that has just been written is read as fast as one that is
// loaded from the disk (mapped_file.cc).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/buffer.h"

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

  /// Throws kFileError, for bytes of this call or of one before.
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  /// Flushes to the disk and renames over `path`; nothing may be written after. Throws kFileError.
  void commit();

 private:
  void put(std::span<const std::byte> bytes);
  void put_block();
  void discard();

  std::string path_;
  std::string temporary_path_;
  Buffer<std::byte> block_;
  int64_t in_block_ = 0;
  int descriptor_ = -1;
};

}  // namespace subbit
