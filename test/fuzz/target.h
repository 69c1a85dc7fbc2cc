// What every fuzz target shares. A target takes hostile bytes, accepts only the errors its room
// promises, and throws a Violation when something got through that should not have: libFuzzer
// reports the uncaught exception, the replay names the input.
#pragma once

#include <algorithm>
#include <cstddef>
#include <initializer_list>
#include <span>
#include <stdexcept>
#include <string>

#include "base/error.h"

namespace subbit::fuzz {

struct Violation : std::logic_error {
  using std::logic_error::logic_error;
};

/// Returns whether the input was taken for a valid one.
using Target = bool (*)(std::span<const std::byte> input);

inline void require(bool holds, const char* what) {
  if (!holds) throw Violation(what);
}

/// Reads every byte, so that AddressSanitizer sees a view that reaches too far.
inline void read_all(std::span<const std::byte> bytes) {
  unsigned sum = 0;
  for (const std::byte b : bytes) sum += static_cast<unsigned>(b);
  [[maybe_unused]] const volatile unsigned kept = sum;
}

/// Runs `body`; false when it threw an Error of one of `allowed`.
template <typename Body>
bool accepts(std::initializer_list<ErrorCode> allowed, Body&& body) {
  try {
    body();
    return true;
  } catch (const Error& error) {
    if (std::find(allowed.begin(), allowed.end(), error.code()) == allowed.end())
      throw Violation(std::string("an error of the wrong kind: ") + error.what());
    require(std::string_view(error.what()).size() < 2000, "an error message without measure");
    return false;
  }
}

}  // namespace subbit::fuzz
