// The largest of a row of floats in one pass of many lanes. Knows no order among equals: who wants
// the first of them looks for the value.
#pragma once

#include <span>

namespace subbit {

struct Largest {
  float value = 0;
  bool finite = true;  // whether all values are
};

/// Of one value at least. Where `finite` is false `value` means nothing.
Largest find_largest(std::span<const float> values);

}  // namespace subbit
