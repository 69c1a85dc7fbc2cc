// Ranks in steps of kRankUnit, and codes over runs of columns, with errors measured on Gaussian
// weights.
#include "compress/candidates.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "compress/fit/coded/coded.h"
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

/// A way to spend bits on a run of columns, and the error it leaves of Gaussian weights.
struct Rate {
  std::vector<PackedSize::Term> terms;  // over all columns
  double error = 1.0;
};

/// formats.md section 5, mean squared errors on Gaussian weights.
constexpr double kTable16Error = 0.583;
constexpr double kTable8Error = 0.325;
constexpr double kTable4Error = 0.099;
constexpr double kCode84Error = 0.602;
constexpr double kSignError = 0.363;
constexpr double kTwoSignsError = 0.119;

/// Terms may begin at multiples of so many columns, and a block of code84 is as wide.
constexpr int64_t kRunUnit = 64;
/// A mixture of two rates is tried at so many places at most.
constexpr int64_t kMixtures = 8;

Candidate mixture_of(const PackedSize& outline, const Rate& first, const Rate& second,
                     int64_t split) {
  const int64_t cols = outline.shape.cols;
  PackedSize size = outline;
  for (PackedSize::Term term : first.terms) {
    term.columns = split;
    size.terms.push_back(term);
  }
  for (PackedSize::Term term : second.terms) {
    term.first_column = split;
    term.columns = cols - split;
    size.terms.push_back(term);
  }
  const double share = static_cast<double>(split) / static_cast<double>(cols);
  return candidate_of(std::move(size), share * first.error + (1.0 - share) * second.error);
}

/// `rates` from cheap to dear: each alone, and each with the next, the cheap one on the first
/// columns, in steps of `unit`.
void add_rates(const PackedSize& outline, const std::vector<Rate>& rates, int64_t unit,
               std::vector<Candidate>& candidates) {
  const int64_t cols = outline.shape.cols;
  const int64_t step = std::max(unit, cols / kMixtures / unit * unit);
  for (size_t i = 0; i < rates.size(); ++i) {
    if (i > 0 || cols % unit == 0 || unit == kRunUnit) {  // code84 covers whole blocks only
      PackedSize size = outline;
      size.terms = rates[i].terms;
      candidates.push_back(candidate_of(std::move(size), rates[i].error));
    }
    if (i + 1 == rates.size()) continue;
    for (int64_t split = step; split < cols; split += step)
      candidates.push_back(mixture_of(outline, rates[i], rates[i + 1], split));
  }
}

void add_tables(const PackedSize& outline, std::vector<Candidate>& candidates) {
  const int64_t cols = outline.shape.cols;
  const auto table = [&](int64_t width) { return coded_term(Coding::kTable, 0, cols, width); };
  const Rate half{{table(16)}, kTable16Error};
  const Rate one{{table(8)}, kTable8Error};
  const Rate two{{table(4)}, kTable4Error};
  add_rates(outline, {half, one, two}, kRunUnit, candidates);
  // One table less costs a small model less.
  add_rates(outline, {half, two}, kRunUnit, candidates);
}

void add_codes(const PackedSize& outline, std::vector<Candidate>& candidates) {
  const int64_t cols = outline.shape.cols;
  const PackedSize::Term sign = coded_term(Coding::kSign, 0, cols);
  const Rate one{{sign}, kSignError};
  const Rate two{{sign, sign}, kTwoSignsError};
  const Rate half{{coded_term(Coding::kCode84, 0, cols)}, kCode84Error};
  if (cols >= kCodeWordColumns) add_rates(outline, {half, one}, kCodeWordColumns, candidates);
  add_rates(outline, {one, two}, kRunUnit, candidates);
}

}  // namespace

double predicted_factored_error(Shape shape, int64_t rank) {
  const double signs = static_cast<double>(rank) * static_cast<double>(shape.rows + shape.cols);
  return std::exp(kDecay * signs / static_cast<double>(shape.count()));
}

std::vector<Candidate> candidates_of(const PackedSize& outline, CompressStages::Forms forms) {
  using Forms = CompressStages::Forms;
  CHECK(outline.terms.empty());
  std::vector<Candidate> candidates;
  if (forms == Forms::kFactored || forms == Forms::kMixed) add_factored(outline, candidates);
  if (forms == Forms::kTables || forms == Forms::kMixed) add_tables(outline, candidates);
  if (forms == Forms::kCodes || forms == Forms::kMixed) add_codes(outline, candidates);
  return candidates;
}

std::set<int64_t> table_widths(const PackedSize& size) {
  std::set<int64_t> widths;
  for (const PackedSize::Term& term : size.terms)
    if (term.table_width > 0) widths.insert(term.table_width);
  return widths;
}

}  // namespace subbit
