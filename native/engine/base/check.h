// CHECK: a programmer error. It throws, because the engine lives inside somebody's process and
// must never take that process down.
#pragma once

#include <string>

#include "base/error.h"

#define SUBBIT_STRINGIFY_(x) #x
#define SUBBIT_STRINGIFY(x) SUBBIT_STRINGIFY_(x)

/// Throws Error{kInternal} naming the condition and the line when `condition` is false.
#define CHECK(condition)                                              \
  do {                                                                \
    if (!(condition)) {                                               \
      throw ::subbit::Error(::subbit::ErrorCode::kInternal,           \
                            "check failed: " #condition " (" __FILE__ \
                            ":" SUBBIT_STRINGIFY(__LINE__) ")");      \
    }                                                                 \
  } while (0)
