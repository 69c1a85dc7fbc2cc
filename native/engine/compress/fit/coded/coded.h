// A linear in coded form: w ~ diag(s_post) Q diag(s_pre), where Q is made of terms over runs of
// columns, each a short code per few weights. Knows what was fitted and its packed form; how codes
// are found is fit_coded.h's.
#pragma once

#include <cstdint>
#include <vector>

#include "base/matrix.h"

namespace subbit {

/// 256 vectors of `width` columns that terms point into. A model has few of them and all its
/// linears share them.
struct Table {
  int64_t width = 0;            // 4, 8 or 16
  std::vector<int8_t> entries;  // [256, width]
};

enum class Coding : uint8_t {
  kSign,    // +1 or -1: 1 bit
  kCode84,  // a word of the [8,4,4] code as eight signs: half a bit
  kTable,   // a vector of a table: 8 / width bits
};

/// One term of Q. Several terms over the same columns add up.
struct CodedTerm {
  Coding coding = Coding::kSign;
  int64_t first_column = 0;
  int64_t columns = 0;
  float gain = 1.0f;
  int64_t table = 0;  // kTable: index into the model's tables
  /// Row-major. kSign: [rows, columns], 1 is +1. kCode84: [rows, columns / 8], the word's index,
  /// 0..15. kTable: [rows, ceil(columns / width)].
  std::vector<uint8_t> codes;
};

/// Columns that no term covers are zero.
struct CodedFit {
  Shape shape;
  std::vector<CodedTerm> terms;
  std::vector<float> s_post;  // [rows]
  std::vector<float> s_pre;   // [cols]
  double weight_error = 0.0;  // ||w - what||^2 / ||w||^2
  double output_error = 0.0;  // the same, columns weighted by the inputs' second moments
};

}  // namespace subbit
