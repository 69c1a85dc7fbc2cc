// Writes to `path` + ".partial" under an exclusive lock, then flushes and renames. The temporary
// name is fixed: what a killed process left behind is taken over by the next writer instead of
// piling up, and the lock tells such a leftover from a file that someone is still writing.
#include "io/file_writer.h"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <utility>

#include "base/check.h"

namespace subbit {
namespace {

constexpr int64_t kBlockBytes = int64_t{2} << 20;
constexpr int64_t kMostBytes = int64_t{1} << 30;  // macOS refuses a write of 2 GiB or more

[[noreturn]] void fail(const std::string& path, const char* action, int error_number) {
  const std::string reason = std::generic_category().message(error_number);
  throw Error(ErrorCode::kFileError, path + ": cannot " + action + ": " + reason,
              {{"file", path}, {"reason", reason}});
}

/// Whether `path` still names the open file: its last owner may have renamed it away between our
/// open and our lock.
bool still_named(int descriptor, const std::string& path) {
  struct stat opened = {};
  struct stat named = {};
  if (fstat(descriptor, &opened) != 0 || stat(path.c_str(), &named) != 0) return false;
  return opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

/// Opens and locks `temporary`. Throws kFileError, also when another writer holds it.
int open_locked(const std::string& temporary, const std::string& path) {
  for (int attempt = 0; attempt < 100; ++attempt) {
    const int descriptor = open(temporary.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (descriptor < 0) fail(temporary, "create", errno);
    const bool locked = flock(descriptor, LOCK_EX | LOCK_NB) == 0;
    // Some network file systems have no locks; there the last writer to rename wins.
    if (!locked && errno == EWOULDBLOCK) {
      close(descriptor);
      throw Error(ErrorCode::kFileError, path + ": another writer is at work on this file",
                  {{"file", path}, {"reason", "locked: " + temporary}});
    }
    if (still_named(descriptor, temporary)) return descriptor;
    close(descriptor);
  }
  throw Error(ErrorCode::kFileError, path + ": other writers keep replacing " + temporary,
              {{"file", path}});
}

/// Down to the medium, not only to the drive's cache.
int flush(int descriptor) {
#if defined(F_FULLFSYNC)
  if (fcntl(descriptor, F_FULLFSYNC) == 0) return 0;
#endif
  return fsync(descriptor);
}

/// Makes the rename itself survive a power cut. Best effort: the file is already whole under its
/// name, and some file systems cannot flush a directory.
void flush_directory_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string directory = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const int descriptor = open(directory.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return;
  fsync(descriptor);
  close(descriptor);
}

}  // namespace

FileWriter::FileWriter(std::string path)
    : path_(std::move(path)), temporary_path_(path_ + ".partial"), block_(kBlockBytes) {
  descriptor_ = open_locked(temporary_path_, path_);
  if (ftruncate(descriptor_, 0) != 0) {
    const int error_number = errno;
    discard();
    fail(temporary_path_, "truncate", error_number);
  }
}

FileWriter::~FileWriter() { discard(); }

void FileWriter::discard() {
  if (descriptor_ < 0) return;
  unlink(temporary_path_.c_str());  // before close, which gives up the lock
  close(descriptor_);
  descriptor_ = -1;
}

void FileWriter::put(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(descriptor_, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail(temporary_path_, "write", errno);
    if (count == 0) fail(temporary_path_, "write", ENOSPC);
    bytes = bytes.subspan(static_cast<size_t>(count));
  }
}

void FileWriter::put_block() {
  put({block_.data(), static_cast<size_t>(std::exchange(in_block_, 0))});
}

void FileWriter::write(std::span<const std::byte> bytes) {
  CHECK(descriptor_ >= 0);
  while (!bytes.empty()) {
    const int64_t left = std::ssize(bytes);
    if (in_block_ == 0 && left >= kBlockBytes) {
      const int64_t whole = std::min(left / kBlockBytes * kBlockBytes, kMostBytes);
      put(bytes.first(static_cast<size_t>(whole)));
      bytes = bytes.subspan(static_cast<size_t>(whole));
      continue;
    }
    const int64_t count = std::min(left, kBlockBytes - in_block_);
    std::copy_n(bytes.begin(), count, block_.data() + in_block_);
    bytes = bytes.subspan(static_cast<size_t>(count));
    in_block_ += count;
    if (in_block_ == kBlockBytes) put_block();
  }
}

void FileWriter::write(std::string_view text) { write(std::as_bytes(std::span(text))); }

void FileWriter::commit() {
  CHECK(descriptor_ >= 0);
  put_block();
  if (flush(descriptor_) != 0) fail(temporary_path_, "flush", errno);
  if (rename(temporary_path_.c_str(), path_.c_str()) != 0) fail(path_, "rename to", errno);
  close(descriptor_);
  descriptor_ = -1;
  flush_directory_of(path_);
}

}  // namespace subbit
