// Moving a linear's input scale into whatever makes its input: a norm's weights, or the rows of the
// linear before it. What is moved costs no bytes and no work at run time, and the linears that
// share an input share its quantized codes.
#pragma once

#include <span>
#include <vector>

#include "base/half.h"
#include "models/model.h"

namespace subbit {

/// A scale whose columns share a row (grouped-query attention: several query heads read one KV
/// head) stays with its linear: tying it over the heads would cost more error than its 16 bits a
/// column are worth, and the fit would have to know.
bool folds_away(const ScaleFold& fold);

/// norm_j *= s_pre_j.
void fold_into_norm(std::span<const float> s_pre, std::span<float> norm);

/// The outputs of the producing linear that feed column c are scaled by s_pre[c]: rows of its
/// s_post, and of its bias where it has one (empty: none).
void fold_into_rows(const ScaleFold& fold, std::span<const float> s_pre, std::span<float> s_post,
                    std::span<float> bias);

/// A norm in halves: value_j = 2^exponent * values_j.
struct HalfNorm {
  std::vector<Half> values;
  int exponent = 0;
};

/// Exponent zero (the norm's natural size) where every value is zero or a normal half; else the
/// largest lies in [2^14, 2^15) and what is then no normal half, 2^-28 of it, becomes zero.
/// Throws kNonFinite.
HalfNorm norm_to_halves(std::span<const float> norm);

}  // namespace subbit
