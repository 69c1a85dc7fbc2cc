// Text of the teacher's own making with its targets, kept so that an interrupted tuning does not
// have it written again.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "compress/tune/saved_state.h"
#include "compress/tune/teacher.h"

namespace subbit {

/// Every window has as many tokens, every row as many targets.
struct TextShape {
  int64_t windows = 0;
  int64_t tokens = 0;
  int64_t vocab = 0;
};

/// Throws kFileError.
void save_text(const std::string& path, const std::string& key, const TextShape& shape,
               std::span<const TrainingWindow> windows);
/// Fills `windows` with what save_text wrote under the same key, or leaves it as it is.
StateFound load_text(const std::string& path, const std::string& key, const TextShape& shape,
                     std::vector<TrainingWindow>& windows);

}  // namespace subbit
