#include "compress/allocate.h"

#include <algorithm>
#include <vector>

#include "compress/candidates.h"
#include "support/test.h"

namespace subbit {
namespace {

/// Bytes of a factored linear, near enough: signs and half vectors.
AllocationUnit unit_of(Shape shape, double sensitivity) {
  AllocationUnit unit;
  unit.sensitivity = sensitivity;
  for (int64_t rank = 32; rank <= std::min(shape.rows, shape.cols); rank += 32) {
    const int64_t bytes = rank * (shape.rows + shape.cols) / 8 + 2 * shape.rows + 32;
    Candidate candidate;
    candidate.size.shape = shape;
    candidate.size.terms.push_back({0, rank, shape.cols, false});
    candidate.bytes = static_cast<uint64_t>(bytes);
    candidate.error = predicted_factored_error(shape, rank);
    unit.candidates.push_back(candidate);
  }
  return unit;
}

std::vector<AllocationUnit> model_of(int layers) {
  std::vector<AllocationUnit> units;
  for (int i = 0; i < layers; ++i)
    for (const Shape shape : {Shape{864, 288}, {288, 288}, {1536, 288}, {288, 768}})
      units.push_back(unit_of(shape, static_cast<double>(shape.count())));
  return units;
}

uint64_t bytes_of(const std::vector<AllocationUnit>& units, const std::vector<size_t>& chosen) {
  uint64_t bytes = 0;
  for (size_t i = 0; i < units.size(); ++i) bytes += units[i].candidates[chosen[i]].bytes;
  return bytes;
}

TEST(ranks_fill_the_budget_and_never_exceed_it) {
  const std::vector<AllocationUnit> units = model_of(6);
  for (uint64_t budget = 200000; budget < 1200000; budget += 12345) {
    const std::vector<size_t> chosen = allocate(units, budget);
    EXPECT_EQ(chosen.size(), units.size());
    const uint64_t used = bytes_of(units, chosen);
    EXPECT(used <= budget);
    for (size_t i = 0; i < units.size(); ++i) {
      if (chosen[i] + 1 == units[i].candidates.size()) continue;
      const uint64_t step =
          units[i].candidates[chosen[i] + 1].bytes - units[i].candidates[chosen[i]].bytes;
      EXPECT(used + step > budget);  // nothing more fits
    }
  }
}

TEST(a_larger_budget_never_raises_the_predicted_error) {
  const std::vector<AllocationUnit> units = model_of(3);
  double before = 1e30;
  for (uint64_t budget = 150000; budget < 500000; budget += 25000) {
    const std::vector<size_t> chosen = allocate(units, budget);
    double error = 0.0;
    for (size_t i = 0; i < units.size(); ++i)
      error += units[i].sensitivity * units[i].candidates[chosen[i]].error;
    // The last, unfilled step may differ, so allow one step's worth of a wobble.
    EXPECT(error < before * 1.005);
    before = error;
  }
}

TEST(equal_linears_get_ranks_at_most_one_step_apart) {
  std::vector<AllocationUnit> units(7, unit_of({512, 512}, 1.0));
  const std::vector<size_t> chosen = allocate(units, 7 * 20000 + 5000);
  const auto [least, most] = std::minmax_element(chosen.begin(), chosen.end());
  EXPECT(*most - *least <= 1);
}

TEST(a_more_sensitive_linear_gets_a_higher_rank) {
  const std::vector<AllocationUnit> units = {unit_of({512, 512}, 1.0), unit_of({512, 512}, 3.0)};
  const std::vector<size_t> chosen = allocate(units, 50000);
  EXPECT(chosen[1] > chosen[0]);
}

TEST(a_budget_below_the_smallest_ranks_is_refused_and_one_above_the_largest_is_not_spent) {
  const std::vector<AllocationUnit> units = model_of(1);
  uint64_t least = 0;
  uint64_t most = 0;
  for (const AllocationUnit& unit : units) {
    least += unit.candidates.front().bytes;
    most += unit.candidates.back().bytes;
  }
  EXPECT(allocate(units, least - 1).empty());
  EXPECT_EQ(bytes_of(units, allocate(units, least)), least);
  EXPECT_EQ(bytes_of(units, allocate(units, 10 * most)), most);
}

Candidate point(uint64_t bytes, double error) {
  Candidate candidate;
  candidate.bytes = bytes;
  candidate.error = error;
  return candidate;
}

TEST(a_form_that_a_mixture_of_others_beats_is_never_given) {
  // 20 bytes at 0.9 lies above the line from (10, 1) to (30, 0.5); 40 bytes at 0.6 is plainly worse
  // than 30 at 0.5. Any order of the candidates gives the same.
  AllocationUnit unit;
  unit.sensitivity = 1.0;
  unit.candidates = {point(40, 0.6), point(30, 0.5), point(20, 0.9), point(10, 1.0)};
  const std::vector<AllocationUnit> units(4, unit);
  for (uint64_t budget = 40; budget <= 200; ++budget) {
    for (const size_t index : allocate(units, budget)) EXPECT(index == 1 || index == 3);
  }
  EXPECT_EQ(bytes_of(units, allocate(units, 119)), uint64_t{100});
  EXPECT_EQ(bytes_of(units, allocate(units, 120)), uint64_t{120});
}

TEST(the_budget_goes_to_whichever_kind_of_form_lowers_the_error_most) {
  AllocationUnit steep;
  steep.sensitivity = 1.0;
  steep.candidates = {point(10, 1.0), point(20, 0.2)};
  AllocationUnit shallow = steep;
  shallow.candidates = {point(10, 1.0), point(20, 0.7)};
  const std::vector<AllocationUnit> units = {shallow, steep};
  EXPECT(allocate(units, 30) == (std::vector<size_t>{0, 1}));
}

TEST(a_table_is_paid_for_once_and_only_if_it_is_worth_it) {
  // Two linears, each either of 1,000 bytes or of 500 with a table of 256 x 8.
  AllocationUnit unit;
  unit.sensitivity = 1.0;
  PackedSize plain;
  plain.shape = {64, 64};
  PackedSize tabled = plain;
  tabled.terms.push_back({5, 0, 64, false, 0, 8});
  unit.candidates = {{plain, 1000, 0.5}, {tabled, 500, 0.1}};
  const std::vector<AllocationUnit> units = {unit, unit};
  const TablesOf tables = [](const PackedSize& size) {
    std::set<int64_t> widths;
    for (const PackedSize::Term& term : size.terms) widths.insert(term.table_width);
    return widths;
  };
  EXPECT_EQ(least_with_tables(units, tables), uint64_t{2000});
  EXPECT(allocate_with_tables(units, 1999, allocate, tables).empty());
  EXPECT(allocate_with_tables(units, 3047, allocate, tables) == (std::vector<size_t>{0, 0}));
  EXPECT(allocate_with_tables(units, 3048, allocate, tables) == (std::vector<size_t>{1, 1}));
}

TEST(uniform_rates_are_the_highest_that_all_fit_in) {
  const std::vector<AllocationUnit> units = model_of(2);
  uint64_t least = 0;
  for (const AllocationUnit& unit : units) least += unit.candidates.front().bytes;
  EXPECT(allocate_uniformly(units, least - 1).empty());
  for (uint64_t budget = least; budget < 3 * least; budget += least / 7) {
    const std::vector<size_t> chosen = allocate_uniformly(units, budget);
    EXPECT_EQ(chosen.size(), units.size());
    EXPECT(bytes_of(units, chosen) <= budget);
    // One rate explains all: above no linear's own but the smallest's, below every linear's next.
    double highest = 0;
    double next = 1e9;
    for (size_t i = 0; i < units.size(); ++i) {
      const auto rate_at = [&](size_t at) {
        const Candidate& candidate = units[i].candidates[at];
        return static_cast<double>(candidate.bytes) /
               static_cast<double>(candidate.size.shape.count());
      };
      if (chosen[i] > 0) highest = std::max(highest, rate_at(chosen[i]));
      if (chosen[i] + 1 < units[i].candidates.size()) next = std::min(next, rate_at(chosen[i] + 1));
    }
    EXPECT(highest < next);
  }
}

TEST(predicted_errors_are_the_measured_ones) {
  // formats.md section 5 and the notes it rests on: 1024 x 1024 at 0.5, 0.8 (0.796875) and 1 bit.
  EXPECT_NEAR(predicted_factored_error({1024, 1024}, 256), 0.579, 0.005);
  EXPECT_NEAR(predicted_factored_error({1024, 1024}, 408), 0.417, 0.005);
  EXPECT_NEAR(predicted_factored_error({1024, 1024}, 512), 0.333, 0.005);
}

}  // namespace
}  // namespace subbit
