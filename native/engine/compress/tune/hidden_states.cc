// Rounding to scaled halves and back.
#include "compress/tune/hidden_states.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "linalg/widen.h"

namespace subbit {
namespace {

constexpr int64_t kRowsPerTask = 16;
/// A token's largest value lies in [2^14, 2^15): the top of the normal halves.
constexpr int kTopExponent = 15;
/// Beyond these the power of two itself would not be a float.
constexpr int kMostExponent = 100;

std::vector<int64_t> firsts_of(std::span<const int64_t> lengths) {
  std::vector<int64_t> first = {0};
  for (const int64_t length : lengths) first.push_back(first.back() + length);
  return first;
}

int exponent_of(const float* row, int64_t width) {
  float largest = 0.0f;
  for (int64_t j = 0; j < width; ++j) largest = std::max(largest, std::fabs(row[j]));
  if (!(largest > 0.0f) || !std::isfinite(largest)) return 0;
  int exponent = 0;
  std::frexp(largest, &exponent);
  return std::clamp(exponent - kTopExponent, -kMostExponent, kMostExponent);
}

}  // namespace

HiddenStates::HiddenStates(std::span<const int64_t> lengths, int64_t width)
    : first_(firsts_of(lengths)),
      width_(width),
      values_(first_.back() * width),
      exponents_(first_.back()) {}

int64_t HiddenStates::longest() const {
  int64_t result = 0;
  for (size_t i = 0; i < windows(); ++i) result = std::max(result, length(i));
  return result;
}

void HiddenStates::write(size_t window, ConstMatrix rows, ThreadPool& pool) {
  CHECK(rows.rows == length(window) && rows.cols == width_);
  pool.parallel_for(rows.rows, kRowsPerTask, [&](Range range) {
    for (int64_t t = range.begin; t < range.end; ++t) {
      const float* row = rows.row(t);
      const int exponent = exponent_of(row, width_);
      const int64_t at = first_[window] + t;
      exponents_[at] = static_cast<int16_t>(exponent);
      const float scale = std::ldexp(1.0f, -exponent);
      Half* out = values_.data() + at * width_;
      for (int64_t j = 0; j < width_; ++j) out[j] = to_half(row[j] * scale);
    }
  });
}

void HiddenStates::read(size_t window, Matrix rows, ThreadPool& pool) const {
  CHECK(rows.rows == length(window) && rows.cols == width_);
  pool.parallel_for(rows.rows, kRowsPerTask, [&](Range range) {
    for (int64_t t = range.begin; t < range.end; ++t) {
      const int64_t at = first_[window] + t;
      float* row = rows.row(t);
      widen(GemmOperand::Type::kF16, values_.data() + at * width_, width_, row);
      const float scale = std::ldexp(1.0f, exponents_[at]);
      for (int64_t j = 0; j < width_; ++j) row[j] *= scale;
    }
  });
}

}  // namespace subbit
