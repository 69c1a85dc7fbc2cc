// swiglu: silu(gate) * up, silu(g) = g / (1 + e^-g) (Shazeer 2020).
#include <algorithm>

#include "backend/cpu/cpu_operations.h"
#include "base/check.h"
#include "base/wide_loop.h"
#include "linalg/exponential.h"

namespace subbit {
namespace {

// Elements of a task. One row of a large model is worth sharing out too, one of a small model is
// over before another thread would hear of it.
constexpr int64_t kRun = 1024;
constexpr int64_t kRunsAlone = 4;

/// A loop over single floats, which compilers make of as many lanes as they may.
inline void swiglu(const float* gate, const float* up, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = gate[i] / (1.0f + exponential(-gate[i])) * up[i];
}

}  // namespace

void cpu_swiglu(Tensor gate, Tensor up, Tensor out, ThreadPool& pool) {
  CHECK(gate.rows == out.rows && up.rows == out.rows);
  CHECK(gate.cols == out.cols && up.cols == out.cols);
  CHECK(gate.row_scale == nullptr && up.row_scale == nullptr && out.row_scale == nullptr);
  const int64_t runs = (out.cols + kRun - 1) / kRun;
  const int64_t tasks = out.rows * runs;
  wide_parallel_for(pool, tasks, tasks > kRunsAlone ? 1 : tasks, [&](Range range) {
    for (int64_t task = range.begin; task < range.end; ++task) {
      const int64_t t = task / runs;
      const int64_t first = task % runs * kRun;
      const int64_t count = std::min(kRun, out.cols - first);
      const float* g = gate.data + t * gate.stride + first;
      const float* u = up.data + t * up.stride + first;
      swiglu(g, u, count, out.data + t * out.stride + first);
    }
  });
}

}  // namespace subbit
