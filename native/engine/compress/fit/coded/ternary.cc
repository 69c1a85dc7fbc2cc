// One magnitude a row, or none.
#include "compress/fit/coded/ternary.h"

#include <bit>
#include <cmath>

namespace subbit {
namespace {

constexpr uint32_t kBelowHalf = 0x1FFF;  // a float's bits of significance that a half lacks

bool two_signs(const PackedSize& size) {
  if (size.terms.size() != 2 || !is_coded(size)) return false;
  const std::vector<CodedTerm> terms = coded_terms(size, {});
  for (const CodedTerm& term : terms)
    if (term.coding != Coding::kSign || term.columns != size.shape.cols) return false;
  return true;
}

/// The one magnitude of a row's weights; 0 where all are 0, negative where there are more.
float magnitude_of(std::span<const float> row) {
  float magnitude = 0.0f;
  for (const float weight : row) {
    if (weight == 0.0f) continue;
    if (magnitude == 0.0f) magnitude = std::fabs(weight);
    if (std::fabs(weight) != magnitude) return -1.0f;
  }
  const bool fits = (std::bit_cast<uint32_t>(magnitude) & kBelowHalf) == 0;
  return fits && std::isfinite(magnitude) ? magnitude : -1.0f;
}

}  // namespace

std::optional<CodedFit> exact_ternary(ConstMatrix w, const PackedSize& size) {
  for (const PackedSize::Term& term : size.terms)
    if (term.table_width > 0) return std::nullopt;
  if (!two_signs(size)) return std::nullopt;
  CodedFit fit;
  fit.shape = w.shape();
  fit.terms = coded_terms(size, {});
  for (CodedTerm& term : fit.terms) term.gain = 0.5f;
  fit.s_pre.assign(static_cast<size_t>(w.cols), 1.0f);
  for (int64_t i = 0; i < w.rows; ++i) {
    const std::span<const float> row(w.row(i), static_cast<size_t>(w.cols));
    const float magnitude = magnitude_of(row);
    if (magnitude < 0.0f) return std::nullopt;
    fit.s_post.push_back(magnitude);
    for (const float weight : row) {
      fit.terms[0].codes.push_back(weight >= 0.0f);
      fit.terms[1].codes.push_back(weight > 0.0f);
    }
  }
  return fit;
}

}  // namespace subbit
