// A file mapped read-only. The mapping lives as long as the object; every span into it must not
// outlive that. A file that is cut short by someone else while it is mapped faults on the lost
// pages, as any mapping does: model files are replaced by rename, never rewritten in place.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

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

 private:
  std::string path_;
  std::span<const std::byte> bytes_;
};

}  // namespace subbit
