// swiglu: silu(gate) * up, silu(g) = g / (1 + e^-g) (Shazeer 2020).
#include <algorithm>

#include "backend/cpu/cpu_operations.h"
#include "base/check.h"
#include "linalg/exponential.h"

namespace subbit {
namespace {

// Elements per task: one row of a large model is worth sharing out too.
constexpr int64_t kRun = 1024;
constexpr int64_t kPieceRuns = 4;

Float4 swiglu(Float4 gate, Float4 up) { return gate / (1.0f + exponential(-gate)) * up; }

}  // namespace

void cpu_swiglu(Tensor gate, Tensor up, Tensor out, ThreadPool& pool) {
  CHECK(gate.rows == out.rows && up.rows == out.rows);
  CHECK(gate.cols == out.cols && up.cols == out.cols);
  CHECK(gate.row_scale == nullptr && up.row_scale == nullptr && out.row_scale == nullptr);
  const int64_t runs = (out.cols + kRun - 1) / kRun;
  pool.parallel_for(out.rows * runs, kPieceRuns, [&](Range range) {
    for (int64_t task = range.begin; task < range.end; ++task) {
      const int64_t t = task / runs;
      const int64_t first = task % runs * kRun;
      const int64_t count = std::min(kRun, out.cols - first);
      const float* g = gate.data + t * gate.stride + first;
      const float* u = up.data + t * up.stride + first;
      float* y = out.data + t * out.stride + first;
      int64_t i = 0;
      for (; i + 4 <= count; i += 4) store4(y + i, swiglu(load4(g + i), load4(u + i)));
      const int64_t rest = count - i;
      store_some(y + i, swiglu(load_some(g + i, rest), load_some(u + i, rest)), rest);
    }
  });
}

}  // namespace subbit
