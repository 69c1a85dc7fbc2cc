// The alternating regressions. Both walk the matrices row by row: columns are cut into runs so that
// a run's sums stay in cache.
#include "compress/fit/factored/scales.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "base/check.h"

namespace subbit {
namespace {

constexpr int64_t kRowsPerTask = 8;
constexpr int64_t kColumnsPerTask = 128;

/// post_i = sum_j c_j w_ij p_ij b_j / sum_j c_j (p_ij b_j)^2, c the column weights, b = pre.
void refit_post(ConstMatrix w, ConstMatrix product, const ElementWeights& weights, Scales& scales,
                ThreadPool& pool) {
  pool.parallel_for(w.rows, kRowsPerTask, [&](Range range) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      double cross = 0.0;
      double square = 0.0;
      for (int64_t j = 0; j < w.cols; ++j) {
        const double scaled = static_cast<double>(product.at(i, j)) * scales.pre[j];
        cross += weights.columns[j] * scaled * w.at(i, j);
        square += weights.columns[j] * scaled * scaled;
      }
      if (square > 0.0) scales.post[i] = static_cast<float>(cross / square);
    }
  });
}

/// The same with rows and columns exchanged.
void refit_pre(ConstMatrix w, ConstMatrix product, const ElementWeights& weights, Scales& scales,
               ThreadPool& pool) {
  pool.parallel_for(w.cols, kColumnsPerTask, [&](Range range) {
    const int64_t count = range.end - range.begin;
    std::vector<double> cross(count, 0.0);
    std::vector<double> square(count, 0.0);
    for (int64_t i = 0; i < w.rows; ++i) {
      const float* w_row = w.row(i) + range.begin;
      const float* p_row = product.row(i) + range.begin;
      const double post = scales.post[i];
      const double weight = weights.rows[i];
      for (int64_t j = 0; j < count; ++j) {
        const double scaled = p_row[j] * post;
        cross[j] += weight * scaled * w_row[j];
        square[j] += weight * scaled * scaled;
      }
    }
    for (int64_t j = 0; j < count; ++j)
      if (square[j] > 0.0) scales.pre[range.begin + j] = static_cast<float>(cross[j] / square[j]);
  });
}

}  // namespace

void refit_scales(ConstMatrix w, ConstMatrix product, const ElementWeights& weights, int rounds,
                  Scales& scales, ThreadPool& pool) {
  CHECK(w.shape() == product.shape());
  for (int round = 0; round < rounds; ++round) {
    refit_post(w, product, weights, scales, pool);
    refit_pre(w, product, weights, scales, pool);
  }
}

void balance_scales(Scales& scales) {
  double squares = 0.0;
  for (const float x : scales.pre) squares += static_cast<double>(x) * x;
  const double length = std::sqrt(squares / static_cast<double>(scales.pre.size()));
  if (!(length > 0.0)) return;
  for (float& x : scales.pre) x = static_cast<float>(x / length);
  for (float& x : scales.post) x = static_cast<float>(x * length);
}

double relative_error(ConstMatrix w, ConstMatrix product, const Scales& scales,
                      const ElementWeights& weights, ThreadPool& pool) {
  std::vector<double> errors(w.rows);
  std::vector<double> totals(w.rows);
  pool.parallel_for(w.rows, kRowsPerTask, [&](Range range) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      double error = 0.0;
      double total = 0.0;
      for (int64_t j = 0; j < w.cols; ++j) {
        const double value = w.at(i, j);
        const double scaled = static_cast<double>(product.at(i, j)) * scales.post[i];
        const double miss = value - scaled * scales.pre[j];
        error += weights.columns[j] * miss * miss;
        total += weights.columns[j] * value * value;
      }
      errors[i] = weights.rows[i] * error;
      totals[i] = weights.rows[i] * total;
    }
  });
  double error = 0.0;
  double total = 0.0;
  for (int64_t i = 0; i < w.rows; ++i) {
    error += errors[i];
    total += totals[i];
  }
  return total > 0.0 ? error / total : 0.0;
}

}  // namespace subbit
