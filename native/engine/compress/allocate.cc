// Greedy steps along convex error curves.
#include "compress/allocate.h"

#include <algorithm>
#include <optional>
#include <tuple>
#include <utility>

#include "base/check.h"
#include "formats/term.h"

namespace subbit {
namespace {

double slope(const Candidate& from, const Candidate& to) {
  return (from.error - to.error) / static_cast<double>(to.bytes - from.bytes);
}

/// Indices of the candidates on the lower hull, in ascending bytes and strictly falling error
/// (Andrew 1979, monotone chain).
std::vector<size_t> hull_of(const std::vector<Candidate>& candidates) {
  CHECK(!candidates.empty());
  std::vector<size_t> order(candidates.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return std::tuple(candidates[a].bytes, candidates[a].error, a) <
           std::tuple(candidates[b].bytes, candidates[b].error, b);
  });
  std::vector<size_t> hull;
  for (const size_t next : order) {
    const Candidate& candidate = candidates[next];
    if (!hull.empty() && candidate.error >= candidates[hull.back()].error) continue;
    while (hull.size() >= 2 && slope(candidates[hull[hull.size() - 2]], candidates[hull.back()]) <=
                                   slope(candidates[hull.back()], candidate)) {
      hull.pop_back();
    }
    hull.push_back(next);
  }
  return hull;
}

/// A unit on its way along its hull.
struct Walk {
  const AllocationUnit* unit = nullptr;
  std::vector<size_t> hull;
  size_t at = 0;

  const Candidate& candidate(size_t step) const { return unit->candidates[hull[step]]; }
  bool done() const { return at + 1 == hull.size(); }
  uint64_t next_bytes() const { return candidate(at + 1).bytes - candidate(at).bytes; }
  double next_gain() const { return unit->sensitivity * slope(candidate(at), candidate(at + 1)); }
};

/// The walk whose next step fits in `room` and gains most per byte, the first of equals; or null.
Walk* best_step(std::vector<Walk>& walks, uint64_t room) {
  Walk* best = nullptr;
  for (Walk& walk : walks) {
    if (walk.done() || walk.next_bytes() > room) continue;
    if (best == nullptr || walk.next_gain() > best->next_gain()) best = &walk;
  }
  return best;
}

}  // namespace

std::vector<size_t> allocate(std::span<const AllocationUnit> units, uint64_t budget) {
  std::vector<Walk> walks;
  uint64_t used = 0;
  for (const AllocationUnit& unit : units) {
    walks.push_back({&unit, hull_of(unit.candidates)});
    used += walks.back().candidate(0).bytes;
  }
  if (used > budget) return {};
  while (Walk* step = best_step(walks, budget - used)) {
    used += step->next_bytes();
    ++step->at;
  }
  std::vector<size_t> chosen;
  for (const Walk& walk : walks) chosen.push_back(walk.hull[walk.at]);
  return chosen;
}

namespace {

/// The candidates of every unit that need no tables but those of one set, and what the set weighs.
struct Restricted {
  std::vector<AllocationUnit> units;
  std::vector<std::vector<size_t>> indices;  // of the candidates in the whole
  uint64_t table_bytes = 0;
};

std::optional<Restricted> restrict_to(std::span<const AllocationUnit> units,
                                      const std::set<int64_t>& allowed, const TablesOf& tables) {
  Restricted result;
  for (const int64_t width : allowed) result.table_bytes += shared_table_bytes(width);
  for (const AllocationUnit& unit : units) {
    AllocationUnit& own = result.units.emplace_back(unit);
    std::vector<size_t>& indices = result.indices.emplace_back();
    own.candidates.clear();
    for (size_t i = 0; i < unit.candidates.size(); ++i) {
      const std::set<int64_t> needed = tables(unit.candidates[i].size);
      if (!std::includes(allowed.begin(), allowed.end(), needed.begin(), needed.end())) continue;
      own.candidates.push_back(unit.candidates[i]);
      indices.push_back(i);
    }
    if (own.candidates.empty()) return std::nullopt;
  }
  return result;
}

/// One for each set of tables with which every unit has a candidate.
std::vector<Restricted> restrictions_of(std::span<const AllocationUnit> units,
                                        const TablesOf& tables) {
  std::set<int64_t> all;
  for (const AllocationUnit& unit : units)
    for (const Candidate& candidate : unit.candidates) all.merge(tables(candidate.size));
  const std::vector<int64_t> choices(all.begin(), all.end());
  std::vector<Restricted> result;
  for (size_t mask = 0; mask < size_t{1} << choices.size(); ++mask) {
    std::set<int64_t> allowed;
    for (size_t t = 0; t < choices.size(); ++t)
      if ((mask >> t & 1) != 0) allowed.insert(choices[t]);
    if (std::optional<Restricted> restricted = restrict_to(units, allowed, tables))
      result.push_back(*std::move(restricted));
  }
  return result;
}

}  // namespace

std::vector<size_t> allocate_with_tables(std::span<const AllocationUnit> units, uint64_t budget,
                                         Allocator* allocator, const TablesOf& tables) {
  std::vector<size_t> best;
  double least = 0.0;
  for (const Restricted& restricted : restrictions_of(units, tables)) {
    if (restricted.table_bytes > budget) continue;
    const std::vector<size_t> chosen = allocator(restricted.units, budget - restricted.table_bytes);
    if (chosen.size() != units.size()) continue;
    double damage = 0.0;
    for (size_t u = 0; u < chosen.size(); ++u)
      damage += units[u].sensitivity * restricted.units[u].candidates[chosen[u]].error;
    if (!best.empty() && !(damage < least)) continue;
    least = damage;
    best.clear();
    for (size_t u = 0; u < chosen.size(); ++u) best.push_back(restricted.indices[u][chosen[u]]);
  }
  return best;
}

uint64_t least_with_tables(std::span<const AllocationUnit> units, const TablesOf& tables) {
  uint64_t least = UINT64_MAX;
  for (const Restricted& restricted : restrictions_of(units, tables)) {
    uint64_t bytes = restricted.table_bytes;
    for (const AllocationUnit& unit : restricted.units)
      bytes += unit.candidates[hull_of(unit.candidates)[0]].bytes;
    least = std::min(least, bytes);
  }
  return least;
}

std::vector<size_t> allocate_uniformly(std::span<const AllocationUnit> units, uint64_t budget) {
  const auto rate_of = [](const Candidate& candidate) {
    return static_cast<double>(candidate.bytes) / static_cast<double>(candidate.size.shape.count());
  };
  // Every rate at which some linear would take its next candidate.
  std::vector<double> rates;
  for (const AllocationUnit& unit : units)
    for (const Candidate& candidate : unit.candidates) rates.push_back(rate_of(candidate));
  std::sort(rates.begin(), rates.end());
  const auto choose = [&](double rate, uint64_t& bytes) {
    std::vector<size_t> chosen;
    bytes = 0;
    for (const AllocationUnit& unit : units) {
      size_t best = 0;
      for (size_t i = 1; i < unit.candidates.size(); ++i) {
        const Candidate& candidate = unit.candidates[i];
        const bool fits = rate_of(candidate) <= rate;
        const bool best_fits = rate_of(unit.candidates[best]) <= rate;
        const bool larger = candidate.bytes > unit.candidates[best].bytes;
        // The largest that fits; where none does, the smallest.
        if (fits ? !best_fits || larger : !best_fits && !larger) best = i;
      }
      chosen.push_back(best);
      bytes += unit.candidates[best].bytes;
    }
    return chosen;
  };
  const auto too_high = std::partition_point(rates.begin(), rates.end(), [&](double rate) {
    uint64_t bytes = 0;
    choose(rate, bytes);
    return bytes <= budget;
  });
  uint64_t bytes = 0;
  std::vector<size_t> chosen = choose(too_high == rates.begin() ? 0.0 : *(too_high - 1), bytes);
  if (bytes > budget) return {};
  return chosen;
}

}  // namespace subbit
