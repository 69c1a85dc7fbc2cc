// Closed-form scales for given signs: rows and columns by turns, each the least-squares optimum
// of the weighted error while the other stands still.
#pragma once

#include <span>
#include <vector>

#include "base/matrix.h"
#include "base/thread_pool.h"

namespace subbit {

/// What the error of one element counts: rows[i] * columns[j]. All positive.
struct ElementWeights {
  std::span<const float> rows;     // [w.rows]
  std::span<const float> columns;  // [w.cols]
};

/// w ~ diag(post) product diag(pre).
struct Scales {
  std::vector<float> post;  // [rows]
  std::vector<float> pre;   // [columns]
};

/// `rounds` times post, then pre; every step lowers the weighted error or leaves it. A scale whose
/// products are all zero keeps its value. Sums are in double along fixed chains.
void refit_scales(ConstMatrix w, ConstMatrix product, const ElementWeights& weights, int rounds,
                  Scales& scales, ThreadPool& pool);

/// Makes the root mean square of `pre` one and moves the factor into `post`.
void balance_scales(Scales& scales);

/// sum of rows[i] columns[j] (w - diag(post) product diag(pre))^2 over the same sum of w^2;
/// zero when w is.
double relative_error(ConstMatrix w, ConstMatrix product, const Scales& scales,
                      const ElementWeights& weights, ThreadPool& pool);

}  // namespace subbit
