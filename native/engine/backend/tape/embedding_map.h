// An embedding as the tape sees it while it is tuned: rows that are looked up, and gradients that
// find their way back to them.
#pragma once

#include <cstdint>
#include <span>

#include "base/matrix.h"

namespace subbit {

class EmbeddingMap {
 public:
  virtual ~EmbeddingMap() = default;

  /// out [tokens, cols] = the rows of `tokens`.
  virtual void look_up(std::span<const int32_t> tokens, Matrix out) const = 0;
  /// gradient [tokens, cols] of what look_up() gave; a token that comes twice adds twice.
  virtual void add_gradient(std::span<const int32_t> tokens, ConstMatrix gradient) = 0;
};

}  // namespace subbit
