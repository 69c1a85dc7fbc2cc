// Comparing floats as integers, which vectorizes with any compiler.
#include "linalg/largest.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "base/wide_loop.h"

namespace subbit {
namespace {

constexpr size_t kLanes = 16;

/// Floats ordered as their bits are, once those of negative ones are turned around.
inline int32_t ordered(float value) {
  const auto bits = std::bit_cast<int32_t>(value);
  return bits ^ (bits >> 31 & 0x7FFFFFFF);
}

}  // namespace

Largest find_largest(std::span<const float> values) {
  CHECK(!values.empty());
  int32_t largest[kLanes];
  int32_t odd[kLanes] = {};
  std::fill_n(largest, kLanes, ordered(values[0]));
  const auto look = [&](float value, size_t lane) {
    const int32_t key = ordered(value);
    largest[lane] = largest[lane] > key ? largest[lane] : key;
    odd[lane] |= (std::bit_cast<int32_t>(value) & 0x7FFFFFFF) >= 0x7F800000 ? 1 : 0;
  };
  run_wide([&] {
    size_t i = 0;
    for (; i + kLanes <= values.size(); i += kLanes)
      for (size_t lane = 0; lane < kLanes; ++lane) look(values[i + lane], lane);
    for (; i < values.size(); ++i) look(values[i], 0);
  });
  const int32_t key = *std::max_element(largest, largest + kLanes);
  return {std::bit_cast<float>(key ^ (key >> 31 & 0x7FFFFFFF)),
          std::find(odd, odd + kLanes, 1) == odd + kLanes};
}

}  // namespace subbit
