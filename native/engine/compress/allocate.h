// Which rank each linear of the body gets, under a budget of bytes. Pure: sizes in, ranks out.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/matrix.h"

namespace subbit {

/// One rate a linear may be given.
struct Rate {
  int64_t rank = 0;
  uint64_t bytes = 0;
};

/// One linear as the allocator sees it.
struct AllocationUnit {
  std::string name;
  Shape shape;
  /// Ascending in rank and in bytes; at least one.
  std::vector<Rate> rates;
  /// What a relative squared output error of one in this linear would cost the model.
  double sensitivity = 0.0;
};

/// Relative squared error of a factored fit of `rank`, by the law that errors of such fits follow:
/// log-linear in the rank (formats.md section 5; Gaussian weights 0.579 at 0.5 sign bits a weight,
/// 0.417 at 0.8, 0.333 at 1.0).
double predicted_error(Shape shape, int64_t rank);

/// The index into `rates` for each unit: the bytes add up to at most `budget`, and no unit could
/// take its next rate within it. Steps are taken where they lower
///   sum of sensitivity * predicted_error
/// most per byte; the error is convex in the rank, so that is the Lagrangian's optimum up to the
/// last step. Empty when the smallest rates do not fit.
std::vector<size_t> allocate(std::span<const AllocationUnit> units, uint64_t budget);

}  // namespace subbit
