// Left-looking blocked Cholesky: all work of order n^3 is the GEMM; what remains are kBlock-wide
// triangles. GEMM can only add, so whatever must be subtracted is negated into scratch first; the
// smaller operand each time.
#include "linalg/cholesky.h"

#include <algorithm>
#include <cmath>

#include "base/buffer.h"
#include "base/check.h"
#include "linalg/gemm.h"

namespace subbit {
namespace {

// Triangles cost n * kBlock^2 scalar-ish steps, GEMM calls n / kBlock synchronisations; 64 keeps
// both below a few percent from n = 288 to 4096.
constexpr int64_t kBlock = 64;
// Rows (or columns) solved side by side, so that the compiler has vectors to fill.
constexpr int64_t kLanes = 16;

/// out = -in.
void negate(ConstMatrix in, Matrix out) {
  for (int64_t i = 0; i < in.rows; ++i)
    for (int64_t j = 0; j < in.cols; ++j) out.at(i, j) = -in.at(i, j);
}

/// Factors the lower triangle of `a` [n <= kBlock] in place, sums in double. False if a pivot is
/// not a positive finite number.
bool factor_triangle(Matrix a) {
  double factor[kBlock][kBlock];
  for (int64_t i = 0; i < a.rows; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      double sum = a.at(i, j);
      for (int64_t k = 0; k < j; ++k) sum -= factor[i][k] * factor[j][k];
      factor[i][j] = i == j ? std::sqrt(sum) : sum / factor[j][j];
    }
    const auto pivot = static_cast<float>(factor[i][i]);
    // Written so that a NaN fails. The rounded pivot divides later, so it must not be zero either.
    if (!(pivot > 0.0f && std::isfinite(pivot))) return false;
    for (int64_t j = 0; j <= i; ++j) a.at(i, j) = static_cast<float>(factor[i][j]);
  }
  return true;
}

/// x := x L^-T for the rows of `x` [rows, b], L [b, b] lower: the panel under a triangle.
void solve_panel(ConstMatrix l, Matrix x, ThreadPool& pool) {
  const int64_t groups = (x.rows + kLanes - 1) / kLanes;
  pool.parallel_for(groups, 4, [&](Range range) {
    for (int64_t group = range.begin; group < range.end; ++group) {
      const int64_t first = group * kLanes;
      const int64_t rows = std::min(kLanes, x.rows - first);
      float lanes[kBlock][kLanes] = {};  // transposed: [column, row]
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < x.cols; ++c) lanes[c][r] = x.at(first + r, c);
      for (int64_t c = 0; c < x.cols; ++c) {
        const float pivot = l.at(c, c);
        for (int64_t r = 0; r < kLanes; ++r) lanes[c][r] /= pivot;
        for (int64_t d = c + 1; d < x.cols; ++d) {
          const float factor = l.at(d, c);
          for (int64_t r = 0; r < kLanes; ++r) lanes[d][r] -= lanes[c][r] * factor;
        }
      }
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < x.cols; ++c) x.at(first + r, c) = lanes[c][r];
    }
  });
}

enum class Triangle { kLower, kUpperOfTransposed };

/// x := T^-1 x for `x` [b, k], T = L or L^T, L [b, b] lower; columns are shared out.
void solve_columns(ConstMatrix l, Triangle triangle, Matrix x, ThreadPool& pool) {
  const int64_t groups = (x.cols + kLanes - 1) / kLanes;
  pool.parallel_for(groups, 4, [&](Range range) {
    const int64_t begin = range.begin * kLanes;
    const int64_t end = std::min(range.end * kLanes, x.cols);
    for (int64_t step = 0; step < x.rows; ++step) {
      const bool lower = triangle == Triangle::kLower;
      const int64_t i = lower ? step : x.rows - 1 - step;
      const float pivot = l.at(i, i);
      float* solved = x.row(i);
      for (int64_t j = begin; j < end; ++j) solved[j] /= pivot;
      for (int64_t other = lower ? i + 1 : 0; other < (lower ? x.rows : i); ++other) {
        const float factor = lower ? l.at(other, i) : l.at(i, other);
        float* target = x.row(other);
        for (int64_t j = begin; j < end; ++j) target[j] -= solved[j] * factor;
      }
    }
  });
}

}  // namespace

bool cholesky_factor(Matrix a, ThreadPool& pool) {
  CHECK(a.rows == a.cols && a.stride >= a.cols);
  const int64_t n = a.rows;
  Buffer<float> negated(kBlock * n);
  Buffer<float> triangle(kBlock * kBlock);
  for (int64_t first = 0; first < n; first += kBlock) {
    const int64_t width = std::min(kBlock, n - first);
    const int64_t below = first + width;
    // a[first.., block] -= L[first.., 0..first) L[block, 0..first)^T; the block on the diagonal
    // aside, for its upper half is not ours to write.
    const Matrix left(negated.data(), width, first, std::max<int64_t>(first, 1));
    negate(a.rows_from(first, width).cols_from(0, first), left);
    const Matrix diagonal(triangle.data(), width, width);
    for (int64_t i = 0; i < width; ++i)
      for (int64_t j = 0; j < width; ++j)
        diagonal.at(i, j) = j <= i ? a.at(first + i, first + j) : 0.0f;
    const GemmOperand left_transposed(left, Transpose::kYes);
    gemm(a.rows_from(first, width).cols_from(0, first), left_transposed, diagonal, Accumulate::kAdd,
         pool);
    if (!factor_triangle(diagonal)) return false;
    for (int64_t i = 0; i < width; ++i)
      std::copy_n(diagonal.row(i), i + 1, a.row(first + i) + first);

    const Matrix panel = a.rows_from(below, n - below).cols_from(first, width);
    gemm(a.rows_from(below, n - below).cols_from(0, first), left_transposed, panel,
         Accumulate::kAdd, pool);
    solve_panel(diagonal, panel, pool);
  }
  return true;
}

void cholesky_solve(ConstMatrix l, Matrix b, ThreadPool& pool) {
  CHECK(l.rows == l.cols && l.rows == b.rows);
  CHECK(l.stride >= l.cols && b.stride >= b.cols);
  const int64_t n = l.rows;
  Buffer<float> negated(kBlock * n);
  // L z = b, from the top.
  for (int64_t first = 0; first < n; first += kBlock) {
    const int64_t width = std::min(kBlock, n - first);
    const Matrix left(negated.data(), width, first, std::max<int64_t>(first, 1));
    negate(l.rows_from(first, width).cols_from(0, first), left);
    const Matrix target = b.rows_from(first, width);
    gemm(left, b.rows_from(0, first), target, Accumulate::kAdd, pool);
    solve_columns(l.rows_from(first, width).cols_from(first, width), Triangle::kLower, target,
                  pool);
  }
  // L^T x = z, from the bottom.
  for (int64_t first = (n - 1) / kBlock * kBlock; n > 0 && first >= 0; first -= kBlock) {
    const int64_t width = std::min(kBlock, n - first);
    const int64_t below = first + width;
    const Matrix under(negated.data(), n - below, width);
    negate(l.rows_from(below, n - below).cols_from(first, width), under);
    const Matrix target = b.rows_from(first, width);
    gemm(GemmOperand(under, Transpose::kYes), b.rows_from(below, n - below), target,
         Accumulate::kAdd, pool);
    solve_columns(l.rows_from(first, width).cols_from(first, width), Triangle::kUpperOfTransposed,
                  target, pool);
  }
}

}  // namespace subbit
