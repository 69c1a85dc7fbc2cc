// LB-ADMM (NanoQuant, arXiv 2602.06694): two sign matrices whose product, scaled by rows and by
// columns, approximates a given matrix. Finds signs; scales.h finds the scales that belong to them.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "base/matrix.h"
#include "base/thread_pool.h"
#include "formats/signs/sign_matrix.h"

namespace subbit {

struct AdmmOptions {
  int64_t rank = 0;
  int iterations = 0;
  uint64_t seed = 0;
};

/// target ~ diag(row_scale) U V diag(column_scale), up to one common factor.
struct SignFactors {
  SignMatrix u;                     // [rows, rank]
  SignMatrix v;                     // [rank, columns]
  std::vector<float> row_scale;     // [rows]
  std::vector<float> column_scale;  // [columns]
};

/// Called before every iteration with its index; may throw to end the work.
using FitStep = std::function<void(int iteration)>;

/// `target` [rows, columns], finite, its root mean square about one. The same options and
/// values give the same signs on any number of threads.
/// Memory beyond the target: (3 rank (rows + columns) + rank^2) floats.
SignFactors factor_into_signs(ConstMatrix target, const AdmmOptions& options, ThreadPool& pool,
                              const FitStep& before_iteration);

}  // namespace subbit
