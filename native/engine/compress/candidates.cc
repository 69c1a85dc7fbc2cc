// Ranks in steps of kRankUnit, with errors from a law measured on Gaussian weights.
#include "compress/candidates.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "compress/fit/factored/factored.h"
#include "formats/packed/layout.h"

namespace subbit {
namespace {

/// ln(error) per bit a weight. From the three measured points -1.093, -1.093 and -1.100.
constexpr double kDecay = -1.094;

Candidate candidate_of(PackedSize size, double error) {
  const uint64_t bytes = packed_bytes(size);
  return {std::move(size), bytes, error};
}

void add_factored(const PackedSize& outline, std::vector<Candidate>& candidates) {
  const Shape shape = outline.shape;
  const int64_t most =
      std::max(std::min(shape.rows, shape.cols) / kRankUnit * kRankUnit, kRankUnit);
  for (int64_t rank = kRankUnit; rank <= most; rank += kRankUnit) {
    PackedSize size = outline;
    size.terms.push_back(factored_term(shape, rank));
    candidates.push_back(candidate_of(std::move(size), predicted_factored_error(shape, rank)));
  }
}

}  // namespace

double predicted_factored_error(Shape shape, int64_t rank) {
  const double signs = static_cast<double>(rank) * static_cast<double>(shape.rows + shape.cols);
  return std::exp(kDecay * signs / static_cast<double>(shape.count()));
}

std::vector<Candidate> candidates_of(const PackedSize& outline) {
  CHECK(outline.terms.empty());
  std::vector<Candidate> candidates;
  add_factored(outline, candidates);
  return candidates;
}

}  // namespace subbit
