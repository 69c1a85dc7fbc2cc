// A short name for everything a compression's bytes depend on, so that finished blocks are only
// ever continued by the request that made them.
#pragma once

#include <string>

#include "engine.h"
#include "io/checkpoint.h"

namespace subbit {

struct Fingerprint {
  std::string key;   // 16 hexadecimal digits, for a directory's name
  std::string text;  // JSON, for people and for telling collisions
};

/// Reads the names, types and shapes of all tensors and a sample of each one's bytes (a model is
/// too large to hash whole each time it is opened). Threads and paths do not count.
Fingerprint fingerprint(const CompressRequest& request, const Checkpoint& checkpoint);

}  // namespace subbit
