// Alternating direction method of multipliers over two real factors A^T [rank, rows] and
// B [rank, columns] that are pulled towards signs times a rank-one magnitude. Both factors are kept
// with the rank as rows, so one update serves either side; only the order differs.
#include "compress/fit/factored/lb_admm.h"

#include <cmath>
#include <utility>

#include "base/buffer.h"
#include "base/check.h"
#include "base/rng.h"
#include "compress/fit/factored/svid.h"
#include "linalg/cholesky.h"
#include "linalg/gemm.h"

namespace subbit {
namespace {

/// Damping of the normal equations, relative to the unit diagonal of the Gram matrix.
constexpr float kLambda = 0.03f;
/// Power iterations when a projection starts from scratch, and when it starts from the last one's
/// vector: |M| has one dominant singular value (its mean), so few suffice.
constexpr int kColdPowerIterations = 5;
constexpr int kWarmPowerIterations = 2;
constexpr int64_t kRowsPerTask = 8;

/// One factor with its consensus and its dual, all [rank, length].
class Side {
 public:
  Side(int64_t rank, int64_t length, Rng& rng)
      : rank_(rank),
        length_(length),
        factor_(rank * length),
        dual_(rank * length, 0.0f),
        directions_(rank * length) {
    for (float& x : factor_.span()) x = rng.normal();
  }

  Matrix factor() { return {factor_.data(), rank_, length_}; }
  /// The consensus with each row divided by its length: X^T of the paper.
  Matrix directions() { return {directions_.data(), rank_, length_}; }
  const Svid& magnitudes() const { return svid_; }

  /// Z = P(factor + dual); dual = factor + dual - Z.
  void project(int power_iterations, ThreadPool& pool) {
    pool.parallel_for(rank_ * length_, 4096, [&](Range range) {
      for (int64_t i = range.begin; i < range.end; ++i) dual_[i] += factor_[i];
    });
    update_svid({dual_.data(), rank_, length_}, power_iterations, svid_, pool);
    pool.parallel_for(rank_, kRowsPerTask, [&](Range range) {
      for (int64_t k = range.begin; k < range.end; ++k) {
        float* direction = directions_.data() + k * length_;
        float* dual = dual_.data() + k * length_;
        for (int64_t j = 0; j < length_; ++j) {
          const float magnitude = svid_.column[j];
          direction[j] = dual[j] < 0.0f ? -magnitude : magnitude;
          dual[j] -= svid_.row[k] * direction[j];
        }
      }
    });
  }

  /// factor += rho * (Z - dual): the pull towards the consensus in the right-hand side.
  void add_pull(float rho, ThreadPool& pool) {
    pool.parallel_for(rank_, kRowsPerTask, [&](Range range) {
      for (int64_t k = range.begin; k < range.end; ++k) {
        const int64_t row = k * length_;
        for (int64_t j = 0; j < length_; ++j)
          factor_[row + j] += rho * (svid_.row[k] * directions_[row + j] - dual_[row + j]);
      }
    });
  }

 private:
  int64_t rank_;
  int64_t length_;
  Buffer<float> factor_;
  Buffer<float> dual_;
  Buffer<float> directions_;
  Svid svid_;
};

/// self = (X^T X + (rho + lambda) I)^-1 (X^T T + rho (Z - dual)), X the other side's unit columns,
/// whose Gram matrix has a unit diagonal, and T the target as this side sees it.
void solve_side(Side& self, Side& other, const GemmOperand& target, float rho, Matrix gram,
                ThreadPool& pool) {
  const Matrix x = other.directions();
  gemm(x, GemmOperand(x, Transpose::kYes), gram, Accumulate::kOverwrite, pool);
  for (int64_t k = 0; k < gram.rows; ++k) gram.at(k, k) += rho + kLambda;
  gemm(x, target, self.factor(), Accumulate::kOverwrite, pool);
  self.add_pull(rho, pool);
  if (!cholesky_factor(gram, pool))
    throw Error(ErrorCode::kNonFinite, "the factorization met a number that is not finite");
  cholesky_solve(gram, self.factor(), pool);
}

SignMatrix signs_of(ConstMatrix m, Transpose transpose) {
  const bool flip = transpose == Transpose::kYes;
  SignMatrix signs{flip ? m.cols : m.rows, flip ? m.rows : m.cols, {}};
  signs.bits.resize(m.rows * m.cols);
  for (int64_t i = 0; i < signs.rows; ++i)
    for (int64_t j = 0; j < signs.cols; ++j)
      signs.bits[i * signs.cols + j] = (flip ? m.at(j, i) : m.at(i, j)) >= 0.0f;
  return signs;
}

}  // namespace

SignFactors factor_into_signs(ConstMatrix target, const AdmmOptions& options, ThreadPool& pool,
                              const FitStep& before_iteration) {
  CHECK(options.rank > 0 && options.iterations > 0);
  Rng rng(options.seed);
  Side a(options.rank, target.rows, rng);
  Side b(options.rank, target.cols, rng);
  a.project(kColdPowerIterations, pool);
  b.project(kColdPowerIterations, pool);
  const GemmOperand seen_by_a(target, Transpose::kYes);
  const GemmOperand seen_by_b(target);
  Buffer<float> gram(options.rank * options.rank);
  const Matrix gram_matrix(gram.data(), options.rank, options.rank);

  for (int t = 0; t < options.iterations; ++t) {
    before_iteration(t);
    const float rho = static_cast<float>(t) / static_cast<float>(options.iterations);
    solve_side(a, b, seen_by_a, rho, gram_matrix, pool);
    solve_side(b, a, seen_by_b, rho, gram_matrix, pool);
    a.project(kWarmPowerIterations, pool);
    b.project(kWarmPowerIterations, pool);
  }
  return {signs_of(a.directions(), Transpose::kYes), signs_of(b.directions(), Transpose::kNo),
          a.magnitudes().column, b.magnitudes().column};
}

}  // namespace subbit
