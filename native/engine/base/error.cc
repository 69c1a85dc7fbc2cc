// Names of the error codes, and the one place where an error's sentence is put together.
#include "base/error.h"

#include <new>

namespace subbit {

std::string_view error_code_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::kAborted:
      return "ABORTED";
    case ErrorCode::kDisposed:
      return "DISPOSED";
    case ErrorCode::kInsufficientMemory:
      return "INSUFFICIENT_MEMORY";
    case ErrorCode::kUnsupportedFormat:
      return "UNSUPPORTED_FORMAT";
    case ErrorCode::kUnsupportedArch:
      return "UNSUPPORTED_ARCH";
    case ErrorCode::kCorruptFile:
      return "CORRUPT_FILE";
    case ErrorCode::kFileError:
      return "FILE_ERROR";
    case ErrorCode::kDeviceUnavailable:
      return "DEVICE_UNAVAILABLE";
    case ErrorCode::kDeviceLost:
      return "DEVICE_LOST";
    case ErrorCode::kContextOverflow:
      return "CONTEXT_OVERFLOW";
    case ErrorCode::kInvalidOption:
      return "INVALID_OPTION";
    case ErrorCode::kNonFinite:
      return "NON_FINITE";
    case ErrorCode::kInternal:
      return "INTERNAL";
  }
  return "INTERNAL";
}

Error::Error(ErrorCode code, std::string message, std::vector<ErrorDetail> details)
    : code_(code), message_(std::move(message)), details_(std::move(details)) {
  const char* separator = ": ";
  for (const auto& [name, value] : details_) {
    if (name != "expected" && name != "actual") continue;
    message_ += separator + name + " " + value;
    separator = ", ";
  }
}

Error current_error() {
  try {
    throw;
  } catch (const Error& error) {
    return error;
  } catch (const std::bad_alloc&) {
    return Error(ErrorCode::kInsufficientMemory, "the system has no more memory to give");
  } catch (const std::exception& error) {
    return Error(ErrorCode::kInternal, error.what());
  } catch (...) {
    return Error(ErrorCode::kInternal, "an unknown exception");
  }
}

}  // namespace subbit
