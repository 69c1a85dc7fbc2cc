// The plain kernel of group formats, for every processor and as the others' yardstick.
#pragma once

#include <cmath>
#include <cstdint>

#include "base/half.h"
#include "formats/groups/groups.h"
#include "formats/signs/layout.h"

namespace subbit {

/// fma(float(I_g), scale_g, y), group after group, of units of `kBits` a code that `kLoad` reads.
template <int kBits, void (*kLoad)(const uint8_t* unit, int64_t group, int8_t* codes)>
float portable_dot(const GroupRow& row) {
  float y = 0;
  int8_t weights[64];
  for (int64_t g = 0; g < row.groups; ++g) {
    kLoad(row.units + g * row.group * kBits / 8, row.group, weights);
    int32_t sum = 0;
    for (int64_t j = 0; j < row.group; ++j) {
      const int64_t column = g * row.group + j;
      const int32_t product = weights[j] * row.codes[column];
      sum += product * (1 << row.shifts[column / kChunk]);
    }
    y = std::fma(static_cast<float>(sum), to_float(row.scales[g]), y);
  }
  return y;
}

template <int kBits, void (*kLoad)(const uint8_t* unit, int64_t group, int8_t* codes)>
constexpr GroupKernel portable_kernel() {
  return {"portable", [](int64_t) { return true; }, portable_dot<kBits, kLoad>};
}

}  // namespace subbit
