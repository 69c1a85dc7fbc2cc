// Opens, sizes and maps a regular file. Only the mapping outlives the constructor: the descriptor
// is closed at once, so a model of many shards holds no descriptors.
#include "io/mapped_file.h"

#include <cerrno>
#include <cstdint>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <utility>

#include "base/error.h"

namespace subbit {
namespace {

class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  ~Descriptor() {
    if (value_ >= 0) close(value_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return value_; }

 private:
  int value_;
};

[[noreturn]] void fail(const std::string& path, const char* action, int error_number) {
  const std::string reason = std::generic_category().message(error_number);
  throw Error(ErrorCode::kFileError, path + ": cannot " + action + ": " + reason,
              {{"file", path}, {"reason", reason}});
}

}  // namespace

MappedFile::MappedFile(std::string path) : path_(std::move(path)) {
  // O_NONBLOCK: opening a pipe must fail the check below, not wait for its writer.
  const Descriptor file(open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0) fail(path_, "open", errno);
  struct stat status = {};
  if (fstat(file.get(), &status) != 0) fail(path_, "read the size", errno);
  if (S_ISDIR(status.st_mode)) fail(path_, "map", EISDIR);
  if (!S_ISREG(status.st_mode)) {
    throw Error(ErrorCode::kFileError, path_ + ": cannot map: not a regular file",
                {{"file", path_}, {"reason", "not a regular file"}});
  }
  if (status.st_size == 0) return;
  const uint64_t size = static_cast<uint64_t>(status.st_size);
  if (size > SIZE_MAX) fail(path_, "map", EFBIG);
  // MAP_SHARED: the pages stay the page cache's, which is what a GPU can be handed without a copy.
  void* address = mmap(nullptr, static_cast<size_t>(size), PROT_READ, MAP_SHARED, file.get(), 0);
  if (address == MAP_FAILED) fail(path_, "map", errno);
  bytes_ = {static_cast<const std::byte*>(address), static_cast<size_t>(size)};
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

}  // namespace subbit
