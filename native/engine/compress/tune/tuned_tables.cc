// Adam on entries, rounded after every step.
#include "compress/tune/tuned_tables.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

namespace subbit {
namespace {

constexpr float kMostEntry = 127.0f;

}  // namespace

TunedTables::TunedTables(std::vector<Table> tables) : tables_(std::move(tables)) {
  for (const Table& table : tables_) {
    Moving& moving = moving_.emplace_back();
    double sum = 0.0;
    for (const int8_t entry : table.entries) {
      moving.values.push_back(entry);
      sum += static_cast<double>(entry) * entry;
    }
    const size_t count = moving.values.size();
    if (sum > 0.0) moving.size = static_cast<float>(std::sqrt(sum / static_cast<double>(count)));
    moving.gradient.assign(count, 0.0f);
    moving.mean.assign(count, 0.0f);
    moving.square.assign(count, 0.0f);
  }
}

double TunedTables::gradient_squares() const {
  double sum = 0.0;
  for (const Moving& moving : moving_) {
    for (const float gradient : moving.gradient) {
      const double g = static_cast<double>(gradient) * moving.size;
      sum += g * g;
    }
  }
  return sum;
}

void TunedTables::step(const AdamStep& adam) {
  for (size_t t = 0; t < moving_.size(); ++t) {
    Moving& moving = moving_[t];
    for (size_t e = 0; e < moving.values.size(); ++e) {
      const float delta =
          adam_delta(moving.gradient[e] * moving.size, moving.mean[e], moving.square[e], adam);
      moving.values[e] =
          std::clamp(moving.values[e] + moving.size * delta, -kMostEntry, kMostEntry);
      tables_[t].entries[e] = static_cast<int8_t>(std::lrint(moving.values[e]));
      moving.gradient[e] = 0.0f;
    }
  }
}

void TunedTables::drop_gradient() {
  for (Moving& moving : moving_) std::fill(moving.gradient.begin(), moving.gradient.end(), 0.0f);
}

void TunedTables::list_state(StateArrays& state) {
  for (size_t t = 0; t < moving_.size(); ++t) {
    const std::string name = "table." + std::to_string(t);
    state.add(name + ".entries", tables_[t].entries);
    state.add(name + ".values", moving_[t].values);
    state.add(name + ".mean", moving_[t].mean);
    state.add(name + ".square", moving_[t].square);
  }
}

}  // namespace subbit
