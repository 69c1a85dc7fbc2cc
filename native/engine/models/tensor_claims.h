// Keeps account of which tensors of a checkpoint a model has taken: a missing one and a leftover
// one are both errors, by name.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "io/checkpoint.h"

namespace subbit {

class TensorClaims {
 public:
  explicit TensorClaims(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {}

  /// Throws kCorruptFile when there is no such tensor.
  const TensorView& claim(const std::string& name);
  /// Null when there is no such tensor.
  const TensorView* claim_if_present(const std::string& name);
  /// Throws kCorruptFile naming the tensors nobody claimed. Rotary frequencies, which some exports
  /// store and everybody recomputes, may be left over.
  void finish() const;

 private:
  const Checkpoint& checkpoint_;
  std::set<std::string, std::less<>> claimed_;
};

/// A one-dimensional F32, F16 or BF16 tensor as floats. Throws kCorruptFile on another shape.
std::vector<float> read_vector(const TensorView& tensor, int64_t expected);

}  // namespace subbit
