// rope backwards: a rotation's transpose is the rotation back.
#include "backend/tape/tape_operations.h"
#include "base/check.h"

namespace subbit {

void rope_backward(const RopeTable& table, int64_t heads, Matrix grad, ThreadPool& pool) {
  const int64_t half = table.half_dim;
  CHECK(grad.cols == heads * 2 * half && grad.rows <= table.positions);
  pool.parallel_for(grad.rows, 16, [&](Range range) {
    for (int64_t t = range.begin; t < range.end; ++t) {
      const float* cosine = table.cosine.data() + t * half;
      const float* sine = table.sine.data() + t * half;
      for (int64_t head = 0; head < heads; ++head) {
        float* low = grad.row(t) + head * 2 * half;
        float* high = low + half;
        for (int64_t i = 0; i < half; ++i) {
          const float a = low[i];
          const float b = high[i];
          low[i] = a * cosine[i] + b * sine[i];
          high[i] = b * cosine[i] - a * sine[i];
        }
      }
    }
  });
}

}  // namespace subbit
