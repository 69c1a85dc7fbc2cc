// Dense matrix times vector, for decoding: one row of activations leaves nothing to tile, so each
// weight is read once, straight from where it is stored.
//
// Contract: dot(w, x) is 32 partial sums, lane l taking columns l, l + 32, ... in order, each step
// a product rounded and then a sum rounded; missing columns of the last step count as zeros. Lanes
// are then folded in halves: l + (l + 16), then 8, 4, 2, 1. No fused multiply-add, so that plain
// C++ yields the same bits as every vector unit. Not the bits of gemm(): two different sums.
#pragma once

#include <span>

#include "base/thread_pool.h"
#include "linalg/gemm.h"

namespace subbit {

/// y[i] = dot(row i of w, x). `w` [y.size(), x.size()] of any type, not transposed; checked.
/// y must not overlap x or w.
void dense_dot(const GemmOperand& w, std::span<const float> x, std::span<float> y,
               ThreadPool& pool);

}  // namespace subbit
