// The fit of one linear in coded form: balanced scales, then codes chosen column group by column
// group so that later ones make up for the errors of earlier ones, then scales in closed form, some
// times over. Knows a matrix and its inputs' statistics; tables are given.
#pragma once

#include <functional>
#include <span>

#include "base/matrix.h"
#include "base/thread_pool.h"
#include "compress/fit/coded/coded.h"

namespace subbit {

/// Of a linear's inputs. Without either, all inputs count alike and none tells of another.
struct InputStatistics {
  std::span<const float> squares;  // [cols]: mean x_j^2, or empty
  ConstMatrix covariance;          // [cols, cols]: mean x_j x_k, or without data
};

struct CodedOptions {
  const PackedSize* size = nullptr;  // whose terms are coded
  std::span<const Table> tables;
  int rounds = 3;
  /// This share of the mean square is added to every input's: what few texts did not excite must
  /// not be free.
  double damping = 0.01;
};

/// Called before every round with its index; may throw to end the work.
using CodedStep = std::function<void(int round)>;

/// A matrix that is ternary comes out exactly where two signs a weight are asked for (ternary.h).
/// Throws kNonFinite when `w` or a statistic is not finite. The same values and options give the
/// same fit on any number of threads.
/// Memory beside `w`: (4 rows cols + 3 cols^2) floats.
CodedFit fit_coded(ConstMatrix w, const InputStatistics& inputs, const CodedOptions& options,
                   ThreadPool& pool, const CodedStep& before_round);

}  // namespace subbit
