// The tables that a model's coded linears share, while they are tuned: entries are floats that
// stand for their nearest integers, and every linear adds to their gradients.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "compress/fit/coded/coded.h"
#include "compress/tune/adam.h"
#include "compress/tune/saved_state.h"

namespace subbit {

class TunedTables {
 public:
  explicit TunedTables(std::vector<Table> tables);

  /// As they now are.
  const std::vector<Table>& tables() const { return tables_; }
  /// d loss / d entries of table `t`, [256, width], gathered since the last step.
  std::span<float> gradient(int64_t t) { return moving_[static_cast<size_t>(t)].gradient; }
  double gradient_squares() const;
  /// `adam.rate` is relative to the root mean square of a table's entries.
  void step(const AdamStep& adam);
  void drop_gradient();
  /// What the next step depends on.
  void list_state(StateArrays& state);

 private:
  struct Moving {
    float size = 1.0f;  // root mean square of the entries as tuning began
    std::vector<float> values;
    std::vector<float> gradient;
    std::vector<float> mean;
    std::vector<float> square;
  };

  std::vector<Table> tables_;
  std::vector<Moving> moving_;
};

}  // namespace subbit
