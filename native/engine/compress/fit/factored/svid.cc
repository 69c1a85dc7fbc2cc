// Power iteration on |M| without storing |M|: one walk over the rows does both halves of a step.
#include "compress/fit/factored/svid.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "base/check.h"

namespace subbit {
namespace {

constexpr int64_t kRowsInGroup = 8;
constexpr int kLanes = 16;  // of the dot product: enough independent sums to fill any vector unit

/// sum over j of |m[j]| * v[j], in kLanes interleaved chains that are then added in order.
float abs_dot(const float* m, const float* v, int64_t count) {
  float lanes[kLanes] = {};
  int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += std::fabs(m[j + lane]) * v[j + lane];
  for (int lane = 0; j < count; ++j, ++lane) lanes[lane] += std::fabs(m[j]) * v[j];
  float sum = 0.0f;
  for (const float lane : lanes) sum += lane;
  return sum;
}

/// Divides by the Euclidean length; all equal entries when the length is zero.
void normalise(std::vector<float>& v) {
  double squares = 0.0;
  for (const float x : v) squares += static_cast<double>(x) * x;
  const bool usable = squares > 0.0;
  const double scale = 1.0 / std::sqrt(usable ? squares : static_cast<double>(v.size()));
  for (float& x : v) x = static_cast<float>((usable ? x : 1.0) * scale);
}

}  // namespace

void update_svid(ConstMatrix m, int iterations, Svid& svid, ThreadPool& pool) {
  const int64_t groups = (m.rows + kRowsInGroup - 1) / kRowsInGroup;
  svid.row.resize(m.rows);
  if (svid.column.empty()) svid.column.assign(m.cols, 1.0f);
  CHECK(static_cast<int64_t>(svid.column.size()) == m.cols);
  normalise(svid.column);

  std::vector<float> partial(groups * m.cols);  // one |M|^T row, per group of rows
  for (int step = 0; step < iterations; ++step) {
    pool.parallel_for(groups, 1, [&](Range range) {
      for (int64_t group = range.begin; group < range.end; ++group) {
        float* sums = partial.data() + group * m.cols;
        std::fill_n(sums, m.cols, 0.0f);
        const int64_t end = std::min(m.rows, (group + 1) * kRowsInGroup);
        for (int64_t k = group * kRowsInGroup; k < end; ++k) {
          const float* row = m.row(k);
          const float scale = abs_dot(row, svid.column.data(), m.cols);
          for (int64_t j = 0; j < m.cols; ++j) sums[j] += std::fabs(row[j]) * scale;
        }
      }
    });
    std::fill(svid.column.begin(), svid.column.end(), 0.0f);
    for (int64_t group = 0; group < groups; ++group)
      for (int64_t j = 0; j < m.cols; ++j) svid.column[j] += partial[group * m.cols + j];
    normalise(svid.column);
  }
  pool.parallel_for(m.rows, kRowsInGroup, [&](Range range) {
    for (int64_t k = range.begin; k < range.end; ++k)
      svid.row[k] = abs_dot(m.row(k), svid.column.data(), m.cols);
  });
}

}  // namespace subbit
