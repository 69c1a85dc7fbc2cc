// argmax: the first of the largest logits.
#include <algorithm>
#include <span>

#include "backend/cpu/cpu_operations.h"
#include "base/check.h"
#include "base/error.h"
#include "linalg/largest.h"

namespace subbit {

int32_t cpu_argmax(Tensor logits) {
  CHECK(logits.rows == 1 && logits.cols > 0 && logits.row_scale == nullptr);
  const std::span<const float> row(logits.data, static_cast<size_t>(logits.cols));
  const Largest largest = find_largest(row);
  if (!largest.finite) {
    throw Error(ErrorCode::kNonFinite, "a logit is not a finite number");
  }
  return static_cast<int32_t>(std::find(row.begin(), row.end(), largest.value) - row.begin());
}

}  // namespace subbit
