// The hidden states of all calibration windows between two decoder blocks, kept small: halves with
// one power of two a token, so that a token of huge values (Llama's first tokens reach thousands,
// other models' more than a half can hold) costs its neighbours nothing.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/half.h"
#include "base/matrix.h"
#include "base/thread_pool.h"

namespace subbit {

/// Memory: 2 width + 2 bytes a token; 0.54 GB for 64 windows of 1,024 tokens of a 7B model.
class HiddenStates {
 public:
  /// Room for windows of these lengths, in tokens; values are undefined until written.
  HiddenStates(std::span<const int64_t> lengths, int64_t width);

  size_t windows() const { return first_.size() - 1; }
  int64_t width() const { return width_; }
  int64_t tokens() const { return first_.back(); }
  int64_t length(size_t window) const { return first_[window + 1] - first_[window]; }
  int64_t longest() const;

  /// `rows` [length(window), width]. Each value is rounded to within 2^-12 of itself, or 2^-40 of
  /// its token's largest. Values that are not finite stay so.
  void write(size_t window, ConstMatrix rows, ThreadPool& pool);
  void read(size_t window, Matrix rows, ThreadPool& pool) const;

 private:
  std::vector<int64_t> first_;  // row of each window, and the end
  int64_t width_;
  Buffer<Half> values_;
  Buffer<int16_t> exponents_;  // a token's values are 2^exponent times its halves
};

}  // namespace subbit
