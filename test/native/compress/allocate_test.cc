#include "compress/allocate.h"

#include <algorithm>
#include <vector>

#include "support/test.h"

namespace subbit {
namespace {

/// Bytes of a factored linear, near enough: signs and half vectors.
AllocationUnit unit_of(Shape shape, double sensitivity) {
  AllocationUnit unit;
  unit.shape = shape;
  unit.sensitivity = sensitivity;
  for (int64_t rank = 32; rank <= std::min(shape.rows, shape.cols); rank += 32) {
    const int64_t bytes = rank * (shape.rows + shape.cols) / 8 + 2 * shape.rows + 32;
    unit.rates.push_back({rank, static_cast<uint64_t>(bytes)});
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
  for (size_t i = 0; i < units.size(); ++i) bytes += units[i].rates[chosen[i]].bytes;
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
      if (chosen[i] + 1 == units[i].rates.size()) continue;
      const uint64_t step = units[i].rates[chosen[i] + 1].bytes - units[i].rates[chosen[i]].bytes;
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
      error +=
          units[i].sensitivity * predicted_error(units[i].shape, units[i].rates[chosen[i]].rank);
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
    least += unit.rates.front().bytes;
    most += unit.rates.back().bytes;
  }
  EXPECT(allocate(units, least - 1).empty());
  EXPECT_EQ(bytes_of(units, allocate(units, least)), least);
  EXPECT_EQ(bytes_of(units, allocate(units, 10 * most)), most);
}

TEST(predicted_errors_are_the_measured_ones) {
  // formats.md section 5 and the notes it rests on: 1024 x 1024 at 0.5, 0.8 (0.796875) and 1 bit.
  EXPECT_NEAR(predicted_error({1024, 1024}, 256), 0.579, 0.005);
  EXPECT_NEAR(predicted_error({1024, 1024}, 408), 0.417, 0.005);
  EXPECT_NEAR(predicted_error({1024, 1024}, 512), 0.333, 0.005);
}

}  // namespace
}  // namespace subbit
