// attention of whole sequences, forwards and backwards. With P = softmax(q k^T / sqrt(d)) and
// out = P v:
//
//   dv = P^T dout;  dP = dout v^T;  dS = P (dP - rowsum(dP P));  dq = dS k / sqrt(d);  dk = dS^T q
//   / sqrt(d)
//
// A sequence is taken in blocks of queries, each against the keys up to its own last row: little is
// computed beyond the diagonal, and of P only one block is ever there. Tasks are the key-value
// heads of all sequences; each runs its products by itself.
#include <algorithm>
#include <cmath>

#include "backend/tape/tape_operations.h"
#include "base/check.h"
#include "base/wide_loop.h"
#include "linalg/exponential.h"
#include "linalg/gemm.h"
#include "linalg/row_reduction.h"

namespace subbit {
namespace {

constexpr int64_t kQueries = 64;

/// Queries [first, first + rows) of one head of one sequence, and what they may look at.
struct QueryBlock {
  int64_t first = 0;
  int64_t rows = 0;
  int64_t keys() const { return first + rows; }
};

template <typename Visit>
void for_each_block(int64_t tokens, Visit&& visit) {
  for (int64_t first = 0; first < tokens; first += kQueries)
    visit(QueryBlock{first, std::min(kQueries, tokens - first)});
}

/// Row r of `scores`: softmax of scale * row over the first block.first + r + 1, zeros beyond.
void causal_softmax(QueryBlock block, float scale, Matrix scores) {
  run_wide([&] {
    for (int64_t r = 0; r < block.rows; ++r) {
      float* row = scores.row(r);
      const int64_t count = block.first + r + 1;
      const float largest = largest_of(row, count);
      for (int64_t p = 0; p < count; ++p) row[p] = exponential((row[p] - largest) * scale);
      const float share = 1.0f / sum_of(row, count);
      for (int64_t p = 0; p < count; ++p) row[p] *= share;
      std::fill(row + count, row + scores.cols, 0.0f);
    }
  });
}

/// grad := weights * (grad - sum(grad * weights)) * scale, row by row.
void softmax_backward(ConstMatrix weights, float scale, Matrix grad) {
  run_wide([&] {
    for (int64_t r = 0; r < grad.rows; ++r) {
      const float* p = weights.row(r);
      float* g = grad.row(r);
      const float mean = dot_of(g, p, grad.cols);
      for (int64_t i = 0; i < grad.cols; ++i) g[i] = p[i] * (g[i] - mean) * scale;
    }
  });
}

/// One task: a key-value head of one sequence.
struct HeadTask {
  int64_t first_row = 0;
  int64_t tokens = 0;
  int64_t kv_head = 0;
};

/// Runs `task` for each, with a pool of its own thread and `scratch_rows` rows of floats as long as
/// the longest sequence.
template <typename Task>
void for_each_head(const AttentionShape& shape, std::span<const int64_t> lengths,
                   int64_t scratch_rows, Buffer<float>& scratch, ThreadPool& pool, Task&& task) {
  std::vector<HeadTask> tasks;
  int64_t first = 0;
  int64_t longest = 0;
  for (const int64_t tokens : lengths) {
    for (int64_t head = 0; head < shape.kv_heads; ++head) tasks.push_back({first, tokens, head});
    first += tokens;
    longest = std::max(longest, tokens);
  }
  const int64_t own = scratch_rows * longest;
  if (scratch.size() < own * pool.threads()) scratch = Buffer<float>(own * pool.threads());
  pool.parallel_for(std::ssize(tasks), 1, [&](Range range) {
    ThreadPool alone(1);
    for (int64_t i = range.begin; i < range.end; ++i)
      task(tasks[static_cast<size_t>(i)], scratch.data() + range.worker * own, alone);
  });
}

void check(const AttentionShape& shape, std::span<const int64_t> lengths, ConstMatrix q,
           ConstMatrix k, ConstMatrix v) {
  CHECK(q.cols == shape.heads * shape.head_dim && k.cols == shape.kv_heads * shape.head_dim);
  CHECK(k.rows == q.rows && v.rows == q.rows && v.cols == k.cols);
  int64_t rows = 0;
  for (const int64_t tokens : lengths) rows += tokens;
  CHECK(rows == q.rows);
}

}  // namespace

void attention_forward(const AttentionTensors& in, Matrix out, Buffer<float>& scratch,
                       ThreadPool& pool) {
  check(in.shape, in.lengths, in.q, in.k, in.v);
  CHECK(out.shape() == in.q.shape());
  const int64_t width = in.shape.head_dim;
  const int64_t group = in.shape.heads / in.shape.kv_heads;
  const float scale = 1.0f / std::sqrt(static_cast<float>(width));
  for_each_head(
      in.shape, in.lengths, kQueries, scratch, pool,
      [&](const HeadTask& task, float* floats, ThreadPool& alone) {
        const auto rows = [&](auto m, int64_t head) {
          return m.rows_from(task.first_row, task.tokens).cols_from(head * width, width);
        };
        const ConstMatrix k = rows(in.k, task.kv_head);
        const ConstMatrix v = rows(in.v, task.kv_head);
        for (int64_t head = task.kv_head * group; head < (task.kv_head + 1) * group; ++head) {
          for_each_block(task.tokens, [&](QueryBlock block) {
            const Matrix weights(floats, block.rows, block.keys());
            gemm(rows(in.q, head).rows_from(block.first, block.rows),
                 {k.rows_from(0, block.keys()), Transpose::kYes}, weights, Accumulate::kOverwrite,
                 alone);
            causal_softmax(block, scale, weights);
            gemm(weights, v.rows_from(0, block.keys()),
                 rows(out, head).rows_from(block.first, block.rows), Accumulate::kOverwrite, alone);
          });
        }
      });
}

void attention_backward(const AttentionTensors& in, ConstMatrix grad_out,
                        const AttentionGradients& to, Buffer<float>& scratch, ThreadPool& pool) {
  check(in.shape, in.lengths, in.q, in.k, in.v);
  CHECK(grad_out.shape() == in.q.shape());
  const int64_t width = in.shape.head_dim;
  const int64_t group = in.shape.heads / in.shape.kv_heads;
  const float scale = 1.0f / std::sqrt(static_cast<float>(width));
  constexpr auto kAdd = Accumulate::kAdd;
  constexpr auto kOverwrite = Accumulate::kOverwrite;
  for_each_head(
      in.shape, in.lengths, 2 * kQueries, scratch, pool,
      [&](const HeadTask& task, float* floats, ThreadPool& alone) {
        const auto rows = [&](auto m, int64_t head) {
          return m.rows_from(task.first_row, task.tokens).cols_from(head * width, width);
        };
        for (int64_t head = task.kv_head * group; head < (task.kv_head + 1) * group; ++head) {
          for_each_block(task.tokens, [&](QueryBlock block) {
            const auto own = [&](auto m) {
              return rows(m, head).rows_from(block.first, block.rows);
            };
            const auto seen = [&](auto m) {
              return rows(m, task.kv_head).rows_from(0, block.keys());
            };
            const Matrix weights(floats, block.rows, block.keys());
            const Matrix grad(floats + block.rows * block.keys(), block.rows, block.keys());
            gemm(own(in.q), {seen(in.k), Transpose::kYes}, weights, kOverwrite, alone);
            causal_softmax(block, scale, weights);
            gemm({weights, Transpose::kYes}, own(grad_out), seen(to.v), kAdd, alone);
            gemm(own(grad_out), {seen(in.v), Transpose::kYes}, grad, kOverwrite, alone);
            softmax_backward(weights, scale, grad);
            gemm(grad, seen(in.k), own(to.q), kAdd, alone);
            gemm({grad, Transpose::kYes}, own(in.q), seen(to.k), kAdd, alone);
          });
        }
      });
}

}  // namespace subbit
