// Greedy steps along convex error curves.
#include "compress/allocate.h"

#include <cmath>

#include "base/check.h"

namespace subbit {
namespace {

/// ln(error) per bit a weight. From the three measured points -1.093, -1.093 and -1.100.
constexpr double kDecay = -1.094;

/// Predicted gain per byte of the unit's next rate.
double gain_of_next(const AllocationUnit& unit, size_t index) {
  const Rate& now = unit.rates[index];
  const Rate& next = unit.rates[index + 1];
  const double fall =
      predicted_error(unit.shape, now.rank) - predicted_error(unit.shape, next.rank);
  return unit.sensitivity * fall / static_cast<double>(next.bytes - now.bytes);
}

}  // namespace

double predicted_error(Shape shape, int64_t rank) {
  const double signs = static_cast<double>(rank) * static_cast<double>(shape.rows + shape.cols);
  return std::exp(kDecay * signs / static_cast<double>(shape.count()));
}

std::vector<size_t> allocate(std::span<const AllocationUnit> units, uint64_t budget) {
  uint64_t used = 0;
  for (const AllocationUnit& unit : units) {
    CHECK(!unit.rates.empty());
    for (size_t i = 1; i < unit.rates.size(); ++i)
      CHECK(unit.rates[i - 1].bytes < unit.rates[i].bytes);
    used += unit.rates[0].bytes;
  }
  if (used > budget) return {};

  std::vector<size_t> chosen(units.size(), 0);
  while (true) {
    size_t best = units.size();
    double best_gain = 0.0;
    for (size_t i = 0; i < units.size(); ++i) {
      const std::vector<Rate>& rates = units[i].rates;
      if (chosen[i] + 1 == rates.size()) continue;
      if (rates[chosen[i] + 1].bytes - rates[chosen[i]].bytes > budget - used) continue;
      const double gain = gain_of_next(units[i], chosen[i]);
      if (best < units.size() && gain <= best_gain) continue;
      best = i;
      best_gain = gain;
    }
    if (best == units.size()) return chosen;
    used += units[best].rates[chosen[best] + 1].bytes - units[best].rates[chosen[best]].bytes;
    ++chosen[best];
  }
}

}  // namespace subbit
