// The folds, and the rounding of folded norms.
#include "compress/fold.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace subbit {
namespace {

constexpr float kLeastNormalHalf = 0x1p-14f;
constexpr float kLargestHalf = 65504.0f;

bool fits_half(float value) {
  const float magnitude = std::fabs(value);
  return magnitude == 0.0f || (magnitude >= kLeastNormalHalf && magnitude <= kLargestHalf);
}

}  // namespace

bool folds_away(const ScaleFold& fold) {
  switch (fold.into) {
    case ScaleFold::Into::kNone:
      return false;
    case ScaleFold::Into::kNorm:
      return true;
    case ScaleFold::Into::kRowsOf:
      return fold.repeat == 1;
  }
  return false;
}

void fold_into_norm(std::span<const float> s_pre, std::span<float> norm) {
  CHECK(s_pre.size() == norm.size());
  for (size_t j = 0; j < norm.size(); ++j) norm[j] *= s_pre[j];
}

void fold_into_rows(const ScaleFold& fold, std::span<const float> s_pre, std::span<float> s_post,
                    std::span<float> bias) {
  CHECK(fold.repeat == 1 && fold.first_row >= 0);
  const auto first = static_cast<size_t>(fold.first_row);
  CHECK(first + s_pre.size() <= s_post.size());
  CHECK(bias.empty() || bias.size() == s_post.size());
  for (size_t c = 0; c < s_pre.size(); ++c) {
    s_post[first + c] *= s_pre[c];
    if (!bias.empty()) bias[first + c] *= s_pre[c];
  }
}

HalfNorm norm_to_halves(std::span<const float> norm) {
  HalfNorm result;
  float largest = 0.0f;
  bool natural = true;
  for (const float value : norm) {
    if (!std::isfinite(value))
      throw Error(ErrorCode::kNonFinite, "a folded norm is not a finite number");
    largest = std::max(largest, std::fabs(value));
    natural = natural && fits_half(value);
  }
  if (!natural) result.exponent = std::ilogb(largest) - 14;
  for (const float value : norm) {
    const float scaled = std::ldexp(value, -result.exponent);
    result.values.push_back(to_half(fits_half(scaled) ? scaled : 0.0f));
  }
  return result;
}

}  // namespace subbit
