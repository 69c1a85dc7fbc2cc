// Weights that were trained ternary (BitNet b1.58, arXiv 2402.17764): two signs a weight hold them
// exactly, so nothing is fitted.
#pragma once

#include <optional>

#include "base/matrix.h"
#include "compress/fit/coded/coded.h"

namespace subbit {

/// The fit as two sign terms with gains of one half each, alike for +-1 and unlike for 0, if `size`
/// asks for two such terms and all weights of a row are 0 or +- one value of at most 11 significant
/// bits (those of a half: checkpoints in bfloat16 and half have no more).
std::optional<CodedFit> exact_ternary(ConstMatrix w, const PackedSize& size);

}  // namespace subbit
