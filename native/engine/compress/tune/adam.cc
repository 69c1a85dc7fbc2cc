// Vectors under Adam.
#include "compress/tune/adam.h"

#include <algorithm>
#include <utility>

namespace subbit {

TunedVector::TunedVector(std::vector<float> values)
    : values_(std::move(values)),
      gradient_(values_.size(), 0.0f),
      mean_(values_.size(), 0.0f),
      square_(values_.size(), 0.0f) {
  double sum = 0.0;
  for (const float value : values_) sum += std::fabs(value);
  // An entry near zero may still grow: none is smaller than a tenth of the mean.
  const auto least = static_cast<float>(0.1 * sum / static_cast<double>(values_.size()));
  for (const float value : values_) {
    size_.push_back(std::max({std::fabs(value), least, 1e-30f}));
    relative_.push_back(value / size_.back());
  }
}

double TunedVector::gradient_squares() const {
  double sum = 0.0;
  for (size_t i = 0; i < gradient_.size(); ++i) {
    const double g = static_cast<double>(gradient_[i]) * size_[i];
    sum += g * g;
  }
  return sum;
}

void TunedVector::step(const AdamStep& adam) {
  for (size_t i = 0; i < values_.size(); ++i) {
    relative_[i] += adam_delta(gradient_[i] * size_[i], mean_[i], square_[i], adam);
    values_[i] = size_[i] * relative_[i];
    gradient_[i] = 0.0f;
  }
}

void TunedVector::list_state(const std::string& name, StateArrays& state) {
  state.add(name + ".values", values_);
  state.add(name + ".relative", relative_);
  state.add(name + ".mean", mean_);
  state.add(name + ".square", square_);
}

}  // namespace subbit
