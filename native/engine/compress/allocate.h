// Which of its candidates each linear of the body gets, under a budget of bytes. Pure: bytes and
// predicted errors in, choices out; what a candidate is made of is nobody's business here.
#pragma once

#include <cstdint>
#include <functional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "formats/packed/pack.h"

namespace subbit {

/// One form a linear may be given, whatever its terms.
struct Candidate {
  PackedSize size;
  uint64_t bytes = 0;
  /// Predicted relative squared output error.
  double error = 0.0;
};

/// One linear as the allocator sees it.
struct AllocationUnit {
  std::string name;
  /// At least one, in any order.
  std::vector<Candidate> candidates;
  /// What a relative squared output error of one in this linear would cost the model.
  double sensitivity = 0.0;
};

/// The index into `candidates` for each unit: the bytes add up to at most `budget`. Only candidates
/// on the lower convex hull of a unit's errors over bytes are used: any other is worse than a
/// mixture of two. From the smallest on, steps along the hulls are taken where they lower
///   sum of sensitivity * error
/// most per byte, until no unit's next step fits. That is the Lagrangian's optimum up to the last
/// step of each unit. Empty when the smallest candidates do not fit.
std::vector<size_t> allocate(std::span<const AllocationUnit> units, uint64_t budget);

/// The tables that a form needs, by their widths.
using TablesOf = std::function<std::set<int64_t>(const PackedSize&)>;

/// Where candidates share tables, which cost bytes once: of all sets of tables the one with which
/// `allocator` (one of these two) leaves the least damage.
using Allocator = std::vector<size_t>(std::span<const AllocationUnit> units, uint64_t budget);
std::vector<size_t> allocate_with_tables(std::span<const AllocationUnit> units, uint64_t budget,
                                         Allocator* allocator, const TablesOf& tables);
/// The least budget with which that succeeds.
uint64_t least_with_tables(std::span<const AllocationUnit> units, const TablesOf& tables);

/// The published rule, to compare with: every linear the same rate, in its largest candidate within
/// it, the rate as high as `budget` allows. Empty when the smallest candidates do not fit.
std::vector<size_t> allocate_uniformly(std::span<const AllocationUnit> units, uint64_t budget);

}  // namespace subbit
