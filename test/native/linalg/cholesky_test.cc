// Cholesky against its definition: L L^T gives the matrix back, solves solve, and what is not
// positive definite is refused.
#include "linalg/cholesky.h"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "base/rng.h"
#include "support/test.h"

namespace subbit {
namespace {

constexpr float kUpper = 77.0f;  // fills the upper triangle, which must be neither read nor written

/// X X^T / n + damping, lower triangle; the upper holds kUpper, the slack beyond a row NaN.
std::vector<float> make_positive(int64_t n, int64_t stride, double damping) {
  std::vector<double> x(static_cast<size_t>(n * n));
  Rng rng(static_cast<uint64_t>(n));
  for (double& value : x) value = rng.normal();
  std::vector<float> a(static_cast<size_t>(n * stride), std::numeric_limits<float>::quiet_NaN());
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = i == j ? damping : 0.0;
      for (int64_t k = 0; k < n; ++k)
        sum += x[static_cast<size_t>(i * n + k)] * x[static_cast<size_t>(j * n + k)] /
               static_cast<double>(n);
      a[static_cast<size_t>(i * stride + j)] = j <= i ? static_cast<float>(sum) : kUpper;
    }
  }
  return a;
}

TEST(cholesky_factor_times_its_transpose_gives_the_matrix_back) {
  ThreadPool pool(2);
  for (const int64_t n : {1, 2, 3, 63, 64, 65, 127, 129, 200}) {
    const int64_t stride = n + 2;
    const std::vector<float> a = make_positive(n, stride, 0.1);
    std::vector<float> l = a;
    EXPECT(cholesky_factor(Matrix(l.data(), n, n, stride), pool));
    int wrong = 0;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        const auto at = [&](const std::vector<float>& m, int64_t r, int64_t c) {
          return double{m[static_cast<size_t>(r * stride + c)]};
        };
        if (j > i) {
          wrong += at(l, i, j) != kUpper;
          continue;
        }
        double sum = 0, magnitude = 0;
        for (int64_t k = 0; k <= j; ++k) {
          sum += at(l, i, k) * at(l, j, k);
          magnitude += std::fabs(at(l, i, k) * at(l, j, k));
        }
        // Higham, Accuracy and Stability, theorem 10.3: |A - L L^T| <= gamma_(n+1) |L| |L^T|;
        // every product below the panel's triangle is rounded on its own, so twice that.
        const double gamma = 2.0 * static_cast<double>(n + 1) * 0x1p-24;
        wrong += !(std::fabs(sum - at(a, i, j)) <= gamma * magnitude);
      }
    }
    if (wrong != 0)
      test::fail(__FILE__, __LINE__,
                 "n = " + std::to_string(n) + ": " + std::to_string(wrong) + " wrong");
  }
}

TEST(cholesky_solve_solves) {
  ThreadPool pool(2);
  for (const int64_t n : {1, 2, 63, 64, 65, 150}) {
    for (const int64_t k : {1, 3, 40}) {
      const std::vector<float> a = make_positive(n, n, 1.0);
      std::vector<float> l = a;
      EXPECT(cholesky_factor(Matrix(l.data(), n, n), pool));
      std::vector<float> b(static_cast<size_t>(n * k));
      Rng rng(5);
      for (float& value : b) value = rng.normal();
      std::vector<float> x = b;
      cholesky_solve(ConstMatrix(l.data(), n, n), Matrix(x.data(), n, k), pool);
      // Residual per column: ||A x - b|| <= c n u ||A|| ||x||, c about 8 (Higham, theorem 10.4);
      // ||A|| <= 6 for these matrices (Marchenko-Pastur: 4, plus damping 1, plus slack).
      for (int64_t c = 0; c < k; ++c) {
        double residual = 0, norm = 0;
        for (int64_t i = 0; i < n; ++i) {
          double sum = -b[static_cast<size_t>(i * k + c)];
          for (int64_t j = 0; j < n; ++j) {
            const auto at = static_cast<size_t>(j <= i ? i * n + j : j * n + i);
            sum += double{a[at]} * x[static_cast<size_t>(j * k + c)];
          }
          residual += sum * sum;
          norm += double{x[static_cast<size_t>(i * k + c)]} * x[static_cast<size_t>(i * k + c)];
        }
        EXPECT(std::sqrt(residual) <=
               8.0 * static_cast<double>(n) * 0x1p-24 * 6.0 * std::sqrt(norm));
      }
    }
  }
}

TEST(cholesky_refuses_what_is_not_positive_definite) {
  ThreadPool pool(2);
  for (const int64_t n : {1, 5, 64, 65, 140}) {
    for (const int64_t place : {int64_t{0}, n / 2, n - 1}) {
      const auto spoil = [&](float value) {
        std::vector<float> a = make_positive(n, n, 0.5);
        a[static_cast<size_t>(place * n + place)] = value;
        return cholesky_factor(Matrix(a.data(), n, n), pool);
      };
      EXPECT(!spoil(-1.0f));
      EXPECT(!spoil(0.0f));
      EXPECT(!spoil(std::numeric_limits<float>::quiet_NaN()));
      EXPECT(!spoil(std::numeric_limits<float>::infinity()));
    }
    if (n < 2) continue;
    std::vector<float> a = make_positive(n, n, 0.5);
    a[static_cast<size_t>((n - 1) * n)] = std::numeric_limits<float>::quiet_NaN();
    EXPECT(!cholesky_factor(Matrix(a.data(), n, n), pool));
    // All ones has rank one: the second pivot is zero.
    std::fill(a.begin(), a.end(), 1.0f);
    EXPECT(!cholesky_factor(Matrix(a.data(), n, n), pool));
  }
}

TEST(cholesky_has_the_same_bits_on_any_thread_count) {
  const int64_t n = 300;
  std::vector<float> factors[2];
  std::vector<float> solutions[2];
  for (int i = 0; i < 2; ++i) {
    ThreadPool pool(i == 0 ? 1 : 3);
    factors[i] = make_positive(n, n, 0.2);
    EXPECT(cholesky_factor(Matrix(factors[i].data(), n, n), pool));
    solutions[i].assign(static_cast<size_t>(n * 70), 0.25f);
    cholesky_solve(ConstMatrix(factors[i].data(), n, n), Matrix(solutions[i].data(), n, 70), pool);
  }
  EXPECT(factors[0] == factors[1]);
  EXPECT(solutions[0] == solutions[1]);
}

TEST(cholesky_of_nothing_is_nothing) {
  ThreadPool pool(1);
  EXPECT(cholesky_factor(Matrix(nullptr, 0, 0), pool));
  cholesky_solve(ConstMatrix(nullptr, 0, 0), Matrix(nullptr, 0, 3), pool);
}

}  // namespace
}  // namespace subbit
