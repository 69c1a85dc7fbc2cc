// A decoder block between its fit and its bytes: what tuning starts from and ends in.
#pragma once

#include <string>
#include <vector>

#include "compress/fit/factored/factored.h"

namespace subbit {

/// Whether a linear keeps its s_pre or has given it to whatever makes its input.
enum class PreScale { kFolded, kOwn };

struct FittedLinear {
  std::string name;
  PreScale pre_scale = PreScale::kFolded;
  FactoredFit fit;
  std::vector<float> bias;  // [rows], or empty
};

struct FittedNorm {
  std::string name;
  bool folded = false;  // carries a linear's s_pre; else it stays the source's, byte for byte
  std::vector<float> values;
};

/// In the order of the block's plan.
struct FittedBlock {
  std::vector<FittedLinear> linears;
  std::vector<FittedNorm> norms;
};

}  // namespace subbit
