// Laying entries out by coordinate.
#include "compress/fit/coded/codebook.h"

#include "base/check.h"

namespace subbit {

void Codebook::assign(std::span<const float> entries, int64_t width) {
  CHECK(width > 0 && width <= kMostWidth && !entries.empty());
  const int64_t count = std::ssize(entries) / width;
  CHECK(count * width == std::ssize(entries) && count <= kMostEntries);
  width_ = width;
  count_ = (count + kLanes - 1) / kLanes * kLanes;
  rows_.assign(entries.begin(), entries.end());
  columns_.resize(static_cast<size_t>(width * count_));
  half_squares_.resize(static_cast<size_t>(count_));
  for (int64_t e = 0; e < count_; ++e) {
    const bool real = e < count;
    float squares = 0.0f;
    for (int64_t j = 0; j < width; ++j) {
      const float value = real ? entries[static_cast<size_t>(e * width + j)] : 0.0f;
      columns_[static_cast<size_t>(j * count_ + e)] = value;
      squares += value * value;
    }
    half_squares_[static_cast<size_t>(e)] =
        real ? 0.5f * squares : std::numeric_limits<float>::infinity();
  }
}

}  // namespace subbit
