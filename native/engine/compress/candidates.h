// The forms a linear may be given, each with its bytes and the error its fit is expected to have:
// what the allocator chooses from.
#pragma once

#include <cstdint>
#include <set>
#include <vector>

#include "base/matrix.h"
#include "compress/allocate.h"
#include "engine.h"
#include "formats/packed/pack.h"

namespace subbit {

/// Relative squared error of a factored fit of `rank`, by the law that errors of such fits follow:
/// log-linear in the rank (formats.md section 5; Gaussian weights 0.579 at 0.5 sign bits a weight,
/// 0.417 at 0.8, 0.333 at 1.0).
double predicted_factored_error(Shape shape, int64_t rank);

/// Every form worth considering for a linear whose shape and vectors are those of `outline`, which
/// has no terms yet. At least one.
std::vector<Candidate> candidates_of(const PackedSize& outline, CompressStages::Forms forms);
/// The widths of the tables that a form's terms choose from.
std::set<int64_t> table_widths(const PackedSize& size);

}  // namespace subbit
