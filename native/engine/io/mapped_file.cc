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
#include "base/huge_pages.h"

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
  identity_ = identity_of(status);
  if (status.st_size == 0) return;
  const uint64_t size = static_cast<uint64_t>(status.st_size);
  if (size > SIZE_MAX) fail(path_, "map", EFBIG);
  // MAP_SHARED: the pages stay the page cache's, which is what a GPU can be handed without a copy.
  void* address = mmap(nullptr, static_cast<size_t>(size), PROT_READ, MAP_SHARED, file.get(), 0);
  if (address == MAP_FAILED && errno == ENOMEM) {
    throw Error(ErrorCode::kInsufficientMemory, path_ + ": no address space to map it",
                {{"file", path_}, {"expected", std::to_string(size) + " bytes"}});
  }
  if (address == MAP_FAILED) fail(path_, "map", errno);
  prefer_huge_pages(address, static_cast<size_t>(size));
  bytes_ = {static_cast<const std::byte*>(address), static_cast<size_t>(size)};
  try {
    guard_.emplace(bytes_);
  } catch (...) {
    munmap(address, bytes_.size());
    throw;
  }
}

MappedFile::Identity MappedFile::identity_of(const struct stat& status) {
#if defined(__APPLE__)
  const timespec modified = status.st_mtimespec;
#else
  const timespec modified = status.st_mtim;
#endif
  return {static_cast<uint64_t>(status.st_dev), static_cast<uint64_t>(status.st_ino),
          static_cast<uint64_t>(status.st_size),
          int64_t{modified.tv_sec} * 1'000'000'000 + modified.tv_nsec};
}

void MappedFile::check_unchanged() const {
  if (guard_ && guard_->is_broken()) {
    throw Error(ErrorCode::kFileError,
                path_ + ": part of it was lost while it was in use: cut short, or unreadable",
                {{"file", path_},
                 {"expected", std::to_string(identity_.size) + " bytes, as when it was loaded"},
                 {"actual", "pages that cannot be read any more"}});
  }
  struct stat status = {};
  if (stat(path_.c_str(), &status) != 0) return;
  const Identity now = identity_of(status);
  if (now.device != identity_.device || now.inode != identity_.inode) return;
  if (now.size == identity_.size && now.modified_ns == identity_.modified_ns) return;
  throw Error(ErrorCode::kFileError, path_ + ": changed while it was in use; load it again",
              {{"file", path_},
               {"expected", std::to_string(identity_.size) + " bytes, as when it was loaded"},
               {"actual", std::to_string(now.size) + " bytes, written since"}});
}

void MappedFile::forbid(uint64_t header_bytes) {
  const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const uint64_t from = (header_bytes + page - 1) / page * page;
  if (from >= bytes_.size()) return;
  guard_.reset();  // what is forbidden shall fault: on macOS, by the same signal
  auto* address = const_cast<std::byte*>(bytes_.data()) + from;
  if (mprotect(address, bytes_.size() - from, PROT_NONE) != 0) fail(path_, "protect", errno);
}

MappedFile::~MappedFile() {
  guard_.reset();  // before another mapping may lie here
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

}  // namespace subbit
