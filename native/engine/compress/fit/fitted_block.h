// A decoder block between its fit and its bytes: what tuning starts from and ends in.
#pragma once

#include <cstddef>
#include <string>
#include <variant>
#include <vector>

#include "compress/fit/coded/coded.h"
#include "compress/fit/factored/factored.h"

namespace subbit {

/// Whether a linear keeps its s_pre or has given it to whatever makes its input.
enum class PreScale { kFolded, kOwn };

struct FittedLinear {
  std::string name;
  PreScale pre_scale = PreScale::kFolded;
  std::variant<FactoredFit, CodedFit> fit;
  std::vector<float> bias;  // [rows], or empty

  /// What both forms have.
  std::vector<float>& s_post() {
    return std::visit([](auto& form) -> std::vector<float>& { return form.s_post; }, fit);
  }
  std::vector<float>& s_pre() {
    return std::visit([](auto& form) -> std::vector<float>& { return form.s_pre; }, fit);
  }
  double weight_error() const {
    return std::visit([](const auto& form) { return form.weight_error; }, fit);
  }
  double output_error() const {
    return std::visit([](const auto& form) { return form.output_error; }, fit);
  }
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

/// All blocks, the tables that their coded linears share, and what is tuned beside them: embedding
/// and head as they are written, in the order of the plan, or none.
struct FittedModel {
  std::vector<FittedBlock> blocks;
  std::vector<Table> tables;
  std::vector<std::vector<std::byte>> ends;
};

}  // namespace subbit
