// The projection at the heart of the factorization: the nearest matrix that is signs times a
// rank-one magnitude, found by power iteration on |M| (sign-value independent decomposition).
#pragma once

#include <vector>

#include "base/matrix.h"
#include "base/thread_pool.h"

namespace subbit {

/// P(M) = sign(M) * (row row-vector) (column column-vector)^T with `column` of unit length, so that
/// row k of P(M) has the length row[k]. Both vectors are non-negative.
struct Svid {
  std::vector<float> row;     // [M.rows]
  std::vector<float> column;  // [M.cols]
};

/// Improves `svid` towards the top singular triple of |M| by `iterations` power iterations that
/// start from svid.column (from all ones when it is empty). Rows are summed in fixed groups, so
/// the thread count does not change a bit.
void update_svid(ConstMatrix m, int iterations, Svid& svid, ThreadPool& pool);

}  // namespace subbit
