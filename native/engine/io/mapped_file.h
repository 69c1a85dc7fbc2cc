// A file mapped read-only. The mapping lives as long as the object; every span into it must not
// outlive that. Model files are replaced by rename, never rewritten in place; one that is rewritten
// or cut all the same changes under its readers, or loses pages, which then read as zeros
// (mapping_guard.h). So whoever reads a mapping asks check_unchanged() before he believes what came
// of it, and, where that takes long, before he begins.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "io/mapping_guard.h"

struct stat;

namespace subbit {

class MappedFile {
 public:
  /// Throws kFileError with what the system said, also for a directory or a pipe. An empty file
  /// maps to an empty span.
  explicit MappedFile(std::string path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  std::span<const std::byte> bytes() const { return bytes_; }
  /// From the first whole page behind `header_bytes` on, reading is a fault from now on: a promise
  /// to have looked at a header alone is kept by the machine.
  void forbid(uint64_t header_bytes);
  /// Throws kFileError when pages of the mapping were lost, or the file under this path is still
  /// the one mapped but has been written or cut since. A file put in its place, or removed, is no
  /// harm: what is mapped stays whole.
  void check_unchanged() const;

 private:
  /// What tells a file from another, and from itself rewritten.
  struct Identity {
    uint64_t device = 0;
    uint64_t inode = 0;
    uint64_t size = 0;
    int64_t modified_ns = 0;
  };
  static Identity identity_of(const struct stat& status);

  std::string path_;
  Identity identity_;
  std::span<const std::byte> bytes_;
  std::optional<MappingGuard> guard_;
};

}  // namespace subbit
