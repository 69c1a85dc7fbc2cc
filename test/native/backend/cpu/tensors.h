// Tensors for the tests of the CPU back end: owned, with slack between rows that must stay as it
// was, and random values.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/rng.h"
#include "support/test.h"

namespace subbit::test {

inline constexpr float kSlack = 12345.0f;

struct OwnedTensor {
  std::vector<float> values;
  std::vector<float> scales;
  Tensor tensor;

  OwnedTensor(int64_t rows, int64_t cols, int64_t slack = 3)
      : values(static_cast<size_t>(rows * (cols + slack)), kSlack),
        tensor{values.data(), rows, cols, cols + slack, nullptr} {}
  OwnedTensor(const OwnedTensor& other)
      : values(other.values), scales(other.scales), tensor(other.tensor) {
    tensor.data = values.data();
    if (other.tensor.row_scale != nullptr) tensor.row_scale = scales.data();
  }
  OwnedTensor& operator=(const OwnedTensor&) = delete;

  OwnedTensor& with_row_scale() {
    scales.assign(static_cast<size_t>(tensor.rows), 0.0f);
    tensor.row_scale = scales.data();
    return *this;
  }
  OwnedTensor& fill(uint64_t seed, float factor = 1.0f) {
    Rng rng(seed);
    for (int64_t i = 0; i < tensor.rows; ++i)
      for (int64_t j = 0; j < tensor.cols; ++j) at(i, j) = factor * rng.normal();
    return *this;
  }
  float& at(int64_t i, int64_t j) { return tensor.data[i * tensor.stride + j]; }
  float at(int64_t i, int64_t j) const { return tensor.data[i * tensor.stride + j]; }
  Tensor rows(int64_t first, int64_t count) const {
    Tensor part = tensor;
    part.data += first * tensor.stride;
    part.rows = count;
    if (part.row_scale != nullptr) part.row_scale += first;
    return part;
  }
  bool slack_untouched() const {
    for (int64_t i = 0; i < tensor.rows; ++i)
      for (int64_t j = tensor.cols; j < tensor.stride; ++j)
        if (values[static_cast<size_t>(i * tensor.stride + j)] != kSlack) return false;
    return true;
  }
};

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace subbit::test
