// Arguments of the products of plain float weights (dense.metal), whose CPU twin is
// formats/dense.
#pragma once

#include "qvec.h"

namespace subbit {
namespace shader {

enum DenseFlag : uint32_t { kDenseBias = 1, kDenseRowScale = 8 };

struct DenseGemvArgs {
  uint32_t rows;
  uint32_t columns;
  uint32_t x_stride;
  uint32_t y_stride;
  uint32_t flags;   // DenseFlag
  uint32_t tokens;  // of the whole dispatch
};

enum : uint32_t { kDenseThreads = 128, kDenseRows = 16 };  // of one threadgroup

}  // namespace shader
}  // namespace subbit
