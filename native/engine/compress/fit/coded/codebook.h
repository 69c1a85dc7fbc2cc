// The nearest of up to 256 short vectors: what every code search comes down to. Entries lie by
// coordinate, so that sixteen are compared at a time; of equally near ones the first wins, on every
// machine.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "base/float4.h"

namespace subbit {

class Codebook {
 public:
  static constexpr int64_t kMostEntries = 256;
  static constexpr int64_t kMostWidth = 16;

  /// `entries` [count, width], row-major, floats: finite.
  Codebook(std::span<const float> entries, int64_t width) { assign(entries, width); }
  Codebook() = default;
  void assign(std::span<const float> entries, int64_t width);

  int64_t width() const { return width_; }
  /// Minimises |entry - v|^2 over the entries; `v` has `width()` floats.
  uint8_t nearest(const float* v) const;
  const float* entry(uint8_t index) const { return rows_.data() + index * width_; }

 private:
  static constexpr int64_t kLanes = 16;

  int64_t count_ = 0;  // rounded up to kLanes; what pads is infinitely far
  int64_t width_ = 0;
  std::vector<float> rows_;
  std::vector<float> columns_;  // [width, count_]
  std::vector<float> half_squares_;
};

inline uint8_t Codebook::nearest(const float* v) const {
  constexpr int kVectors = kLanes / 4;
  Float4 best[kVectors];
  Int4 found[kVectors];
  for (int q = 0; q < kVectors; ++q) {
    best[q] = Float4{} + std::numeric_limits<float>::infinity();
    found[q] = Int4{};
  }
  for (int64_t first = 0; first < count_; first += kLanes) {
    Float4 score[kVectors];
    for (int q = 0; q < kVectors; ++q) score[q] = load4(half_squares_.data() + first + 4 * q);
    for (int64_t j = 0; j < width_; ++j) {
      const float* column = columns_.data() + j * count_ + first;
      const Float4 x = Float4{} + v[j];
      for (int q = 0; q < kVectors; ++q) score[q] -= x * load4(column + 4 * q);
    }
    const Int4 block = Int4{} + static_cast<int32_t>(first);
    for (int q = 0; q < kVectors; ++q) {
      const Int4 nearer = score[q] < best[q];
      best[q] = choose(nearer, score[q], best[q]);
      found[q] = (nearer & block) | (~nearer & found[q]);
    }
  }
  float least = std::numeric_limits<float>::infinity();
  int32_t index = 0;
  for (int q = 0; q < kVectors; ++q) {
    for (int lane = 0; lane < 4; ++lane) {
      const int32_t at = found[q][lane] + 4 * q + lane;
      if (best[q][lane] > least || (best[q][lane] == least && at > index)) continue;
      least = best[q][lane];
      index = at;
    }
  }
  return static_cast<uint8_t>(index);
}

}  // namespace subbit
