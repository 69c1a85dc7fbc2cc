// A tensor of the compressed model and its bytes.
#pragma once

#include <cstddef>
#include <vector>

#include "io/safetensors.h"

namespace subbit {

struct FinishedTensor {
  TensorSpec spec;
  std::vector<std::byte> bytes;
};

}  // namespace subbit
