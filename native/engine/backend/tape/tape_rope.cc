// rope backwards: a rotation's transpose is the rotation back.
#include <vector>

#include "backend/tape/tape_operations.h"
#include "base/check.h"
#include "base/wide_loop.h"

namespace subbit {

namespace {

void turn_back(const float* cosine, const float* sine, int64_t half, float* low) {
  float* high = low + half;
  for (int64_t i = 0; i < half; ++i) {
    const float a = low[i];
    const float b = high[i];
    low[i] = a * cosine[i] + b * sine[i];
    high[i] = b * cosine[i] - a * sine[i];
  }
}

}  // namespace

void rope_backward(const RopeTable& table, int64_t heads, std::span<const int64_t> lengths,
                   Matrix grad, ThreadPool& pool) {
  const int64_t half = table.half_dim;
  CHECK(grad.cols == heads * 2 * half);
  std::vector<int64_t> positions;
  for (const int64_t tokens : lengths) {
    CHECK(tokens <= table.positions);
    for (int64_t t = 0; t < tokens; ++t) positions.push_back(t);
  }
  CHECK(std::ssize(positions) == grad.rows);
  wide_parallel_for(pool, grad.rows, 16, [&](Range range) {
    for (int64_t t = range.begin; t < range.end; ++t) {
      const int64_t at = positions[static_cast<size_t>(t)] * half;
      for (int64_t head = 0; head < heads; ++head)
        turn_back(table.cosine.data() + at, table.sine.data() + at, half,
                  grad.row(t) + head * 2 * half);
    }
  });
}

}  // namespace subbit
