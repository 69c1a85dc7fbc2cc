// One row of floats to one float, in sixteen strands that are joined at the end: fast without
// leave to reorder, and the same bits on every machine. (Matrices go through gemm.h and
// dense_dot.h.)
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/float4.h"

namespace subbit {

/// Joins next(i, count), which gives `count` <= 4 elements from i on (and zeros), by addition.
template <typename Next>
inline float sum_in_strands(int64_t count, const Next& next) {
  Float4 strands[4] = {};
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    strands[0] += next(i, 4);
    strands[1] += next(i + 4, 4);
    strands[2] += next(i + 8, 4);
    strands[3] += next(i + 12, 4);
  }
  for (; i + 4 <= count; i += 4) strands[0] += next(i, 4);
  if (i < count) strands[1] += next(i, count - i);
  const Float4 sums = (strands[0] + strands[2]) + (strands[1] + strands[3]);
  return (sums[0] + sums[2]) + (sums[1] + sums[3]);
}

inline float sum_of(const float* row, int64_t count) {
  return sum_in_strands(count, [row](int64_t i, int64_t some) {
    return some == 4 ? load4(row + i) : load_some(row + i, some);
  });
}

inline float dot_of(const float* a, const float* b, int64_t count) {
  return sum_in_strands(count, [a, b](int64_t i, int64_t some) {
    return some == 4 ? load4(a + i) * load4(b + i)
                     : load_some(a + i, some) * load_some(b + i, some);
  });
}

/// `count` >= 1. A NaN is overlooked, or is the answer.
inline float largest_of(const float* row, int64_t count) {
  Float4 lanes[2] = {Float4{} + row[0], Float4{} + row[0]};
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    for (int half = 0; half < 2; ++half) {
      const Float4 next = load4(row + i + 4 * half);
      lanes[half] = choose(next > lanes[half], next, lanes[half]);
    }
  }
  const Float4 both = choose(lanes[1] > lanes[0], lanes[1], lanes[0]);
  float largest = std::max(std::max(both[0], both[1]), std::max(both[2], both[3]));
  for (; i < count; ++i) largest = std::max(largest, row[i]);
  return largest;
}

}  // namespace subbit
