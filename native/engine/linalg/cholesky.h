// Cholesky factorization and solves on the engine's GEMM: what the closed-form steps of the
// compressor need. Fixed order of operations; the thread count does not change a bit.
#pragma once

#include "base/matrix.h"
#include "base/thread_pool.h"

namespace subbit {

/// Factors the symmetric positive definite `a` [n, n] in place: its lower triangle becomes L with
/// a = L L^T. Only the lower triangle is read. Returns false, `a` then being scrap, if a pivot is
/// not a positive finite number; the caller adds damping and tries again.
[[nodiscard]] bool cholesky_factor(Matrix a, ThreadPool& pool);

/// Overwrites `b` [n, k] with the solution x of L L^T x = b.
void cholesky_solve(ConstMatrix l, Matrix b, ThreadPool& pool);

}  // namespace subbit
