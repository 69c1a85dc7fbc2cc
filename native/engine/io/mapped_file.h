// A file mapped read-only. The mapping lives as long as the object; every span into it must not
// outlive that. A file that is cut short by someone else while it is mapped faults on the lost
// pages, as any mapping does: model files are replaced by rename, never rewritten in place, and
// whoever reads a mapping for long asks check_unchanged() before each piece of work.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

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
  /// Throws kFileError when the file under this path is still the one mapped but has been written
  /// or cut since. A file put in its place, or removed, is no harm: what is mapped stays whole.
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
};

}  // namespace subbit
