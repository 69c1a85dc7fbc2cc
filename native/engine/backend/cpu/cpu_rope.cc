// rope: rotates pairs half a head apart (Su et al. 2021, in the half-split order of Hugging Face
// checkpoints).
#include <algorithm>

#include "backend/cpu/cpu_operations.h"
#include "base/check.h"

namespace subbit {
namespace {

constexpr int64_t kPieceElements = 1 << 14;

}  // namespace

void cpu_rope(const RopeTable& table, int64_t first_position, int64_t heads, Tensor x,
              ThreadPool& pool) {
  const int64_t half = table.half_dim;
  CHECK(heads > 0 && x.cols == heads * 2 * half && x.row_scale == nullptr);
  CHECK(first_position >= 0 && first_position + x.rows <= table.positions);
  CHECK(std::ssize(table.cosine) >= table.positions * half &&
        std::ssize(table.sine) >= table.positions * half);
  const int64_t grain = std::max<int64_t>(1, kPieceElements / std::max<int64_t>(x.cols, 1));
  pool.parallel_for(x.rows, grain, [&](Range range) {
    for (int64_t t = range.begin; t < range.end; ++t) {
      const float* cosine = table.cosine.data() + (first_position + t) * half;
      const float* sine = table.sine.data() + (first_position + t) * half;
      for (int64_t head = 0; head < heads; ++head) {
        float* low = x.data + t * x.stride + head * 2 * half;
        float* high = low + half;
        for (int64_t i = 0; i < half; ++i) {
          const float a = low[i];
          const float b = high[i];
          low[i] = a * cosine[i] - b * sine[i];
          high[i] = b * cosine[i] + a * sine[i];
        }
      }
    }
  });
}

}  // namespace subbit
