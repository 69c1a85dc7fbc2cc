// The one exception type that operating errors (file, memory, device, user value) are thrown as.
// Thrown anywhere in the engine, caught once in the binding, mapped once in lib/errors.ts.
#pragma once

#include <exception>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace subbit {

enum class ErrorCode {
  kAborted,
  kDisposed,
  kInsufficientMemory,
  kUnsupportedFormat,
  kUnsupportedArch,
  kCorruptFile,
  kFileError,  // cannot be opened, read or written: what the operating system said
  kDeviceUnavailable,
  kDeviceLost,  // the device failed while it worked for us
  kContextOverflow,
  kInvalidOption,
  kNonFinite,  // a NaN or an infinity where a number was needed
  kInternal,   // a failed CHECK: our mistake, never the user's
};

/// The code as the TypeScript API spells it, such as "CORRUPT_FILE".
std::string_view error_code_name(ErrorCode code);

/// One named fact about a failure: {"file", "a/model.safetensors"}, {"expected", "80 bytes"}.
using ErrorDetail = std::pair<std::string, std::string>;

class Error : public std::exception {
 public:
  /// `message` says what failed and on what; "expected" and "actual" details are appended to it.
  Error(ErrorCode code, std::string message, std::vector<ErrorDetail> details = {});

  ErrorCode code() const { return code_; }
  const std::vector<ErrorDetail>& details() const { return details_; }
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  ErrorCode code_;
  std::string message_;
  std::vector<ErrorDetail> details_;
};

/// The exception being handled, as an Error: std::bad_alloc is kInsufficientMemory, anything else
/// unforeseen kInternal. Call inside a catch block only.
Error current_error();

}  // namespace subbit
