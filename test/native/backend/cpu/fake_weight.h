// A weight whose product is written down literally, and which records what it was handed.
#pragma once

#include <cmath>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "formats/format.h"
#include "formats/signs/quantized_rows.h"

namespace subbit::test {

class FakeWeight final : public Weight {
 public:
  FakeWeight(Shape shape, InputKind kind, uint64_t seed)
      : Weight(shape), kind_(kind), values_(static_cast<size_t>(shape.count())) {
    Rng rng(seed);
    for (float& value : values_) value = rng.normal();
  }

  float at(int64_t i, int64_t j) const {
    return values_[static_cast<size_t>(i * shape().cols + j)];
  }
  std::string_view format() const override { return "fake"; }
  uint64_t packed_bytes() const override { return values_.size() * sizeof(float); }
  InputKind input_kind() const override { return kind_; }
  void unpack_rows(int64_t first_row, Matrix out) const override {
    for (int64_t i = 0; i < out.rows; ++i)
      for (int64_t j = 0; j < out.cols; ++j) out.at(i, j) = at(first_row + i, j);
  }

  /// The input as this weight reads it: floats, or codes times their scales.
  float input(const LinearInput& in, int64_t t, int64_t j) const {
    if (kind_ == InputKind::kFloat) return in.values.at(t, j);
    const QuantizedRows& q = *in.quantized;
    const int8_t exponent = q.exponents[t * q.chunks + j / 32];
    return std::ldexp(static_cast<float>(q.codes[t * q.chunks * 32 + j]), exponent);
  }
  float dot(const LinearInput& in, int64_t t, int64_t i) const {
    float sum = 0.0f;
    for (int64_t j = 0; j < shape().cols; ++j) sum += at(i, j) * input(in, t, j);
    return (in.row_scale == nullptr ? 1.0f : in.row_scale[t]) * sum;
  }
  void multiply(const LinearInput& in, Matrix out, OutputMode mode, ThreadPool&) const override {
    codes_seen.push_back(in.quantized);
    for (int64_t t = 0; t < out.rows; ++t)
      for (int64_t i = 0; i < out.cols; ++i)
        out.at(t, i) = (mode == OutputMode::kAdd ? out.at(t, i) : 0.0f) + dot(in, t, i);
  }

  mutable std::vector<const QuantizedRows*> codes_seen;  // one entry per multiply()

 private:
  InputKind kind_;
  std::vector<float> values_;
};

}  // namespace subbit::test
