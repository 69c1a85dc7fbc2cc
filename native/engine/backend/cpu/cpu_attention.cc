// attention: keys and values into the cache, then one query row at a time: scores, softmax, sum of
// values. A row's arithmetic depends on its position alone, so prompts may be cut anywhere and
// (token, head) pairs shared out to any number of threads.
#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/cpu/attention_kernels.h"
#include "backend/cpu/cpu_operations.h"
#include "base/check.h"
#include "linalg/dense_dot_kernel.h"
#include "linalg/exponential.h"
#include "linalg/widen.h"

namespace subbit {
namespace {

constexpr int64_t kPieceWork = 1 << 15;  // multiply-adds: about 5 us

/// One KV head's rows in one layer, from position 0.
struct CachedHead {
  KvLayer kv;
  int64_t head_dim = 0;
  int64_t head = 0;

  int64_t row_bytes() const { return kv_row_bytes(kv.type, head_dim); }
  std::byte* at(void* base, int64_t position) const {
    return static_cast<std::byte*>(base) + (head * kv.capacity + position) * row_bytes();
  }
};

void store_row(const CachedHead& cache, void* base, int64_t position, const float* row) {
  const std::span<const float> values(row, static_cast<size_t>(cache.head_dim));
  std::byte* target = cache.at(base, position);
  switch (cache.kv.type) {
    case KvType::kF32:
      std::copy(values.begin(), values.end(), reinterpret_cast<float*>(target));
      break;
    case KvType::kF16:
      attention_kernels().front().narrow(values, reinterpret_cast<Half*>(target));
      break;
    case KvType::kI8:
      store_codes(values, target);
      break;
  }
}

void append(const AttentionInput& in, ThreadPool& pool) {
  const int64_t head_dim = in.shape.head_dim;
  const int64_t grain = std::max<int64_t>(1, kPieceWork / (2 * in.k.cols));
  pool.parallel_for(in.k.rows, grain, [&](Range range) {
    for (int64_t t = range.begin; t < range.end; ++t) {
      for (int64_t head = 0; head < in.shape.kv_heads; ++head) {
        const CachedHead cache{in.kv, head_dim, head};
        const int64_t position = in.first_position + t;
        store_row(cache, in.kv.keys, position, in.k.data + t * in.k.stride + head * head_dim);
        store_row(cache, in.kv.values, position, in.v.data + t * in.v.stride + head * head_dim);
      }
    }
  });
}

/// scores[p] := e^(scores[p] - max); returns their sum: four strided sums, then two, then one.
float exponentiate(std::span<float> scores) {
  float largest = -std::numeric_limits<float>::infinity();
  for (const float score : scores) largest = score > largest ? score : largest;
  const int64_t count = std::ssize(scores);
  Float4 sum = {};
  int64_t p = 0;
  for (; p + 4 <= count; p += 4) {
    const Float4 powers = exponential(load4(scores.data() + p) - largest);
    store4(scores.data() + p, powers);
    sum += powers;
  }
  if (p < count) {
    const Float4 powers = exponential(load_some(scores.data() + p, count - p) - largest);
    store_some(scores.data() + p, powers, count - p);
    sum += load_some(scores.data() + p, count - p);
  }
  return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

/// scores[p] = key p . q
void score_keys(const CachedHead& cache, std::span<const float> q, std::span<float> scores) {
  const std::byte* keys = cache.at(cache.kv.keys, 0);
  if (cache.kv.type == KvType::kI8) {
    attention_kernels().front().code_scores({keys, q, scores});
    return;
  }
  const auto type =
      cache.kv.type == KvType::kF32 ? GemmOperand::Type::kF32 : GemmOperand::Type::kF16;
  dense_dot_kernels().front().run(
      {type, keys, cache.row_bytes(), std::ssize(scores), q, scores.data()});
}

/// One (token, head) pair. `scores` [positions] is scratch.
void attend(const CachedHead& cache, const float* q, std::span<float> scores, float* out) {
  const auto width = static_cast<size_t>(cache.head_dim);
  score_keys(cache, {q, width}, scores);
  const float scale = 1.0f / std::sqrt(static_cast<float>(cache.head_dim));
  for (float& score : scores) score *= scale;
  const float reciprocal = 1.0f / exponentiate(scores);
  const std::byte* values = cache.at(cache.kv.values, 0);
  if (cache.kv.type == KvType::kI8) {
    for (int64_t p = 0; p < std::ssize(scores); ++p)
      scores[static_cast<size_t>(p)] *= code_scale(values + p * cache.row_bytes(), cache.head_dim);
  }
  attention_kernels().front().weighted_sum({cache.kv.type, values, scores, {out, width}});
  for (size_t d = 0; d < width; ++d) out[d] *= reciprocal;
}

void check(const AttentionInput& in, Tensor out) {
  const AttentionShape& shape = in.shape;
  CHECK(shape.head_dim > 0 && shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0);
  CHECK(in.q.cols == shape.heads * shape.head_dim && out.cols == in.q.cols);
  CHECK(in.k.cols == shape.kv_heads * shape.head_dim && in.v.cols == in.k.cols);
  CHECK(in.k.rows == in.q.rows && in.v.rows == in.q.rows && out.rows == in.q.rows);
  CHECK(in.q.row_scale == nullptr && in.k.row_scale == nullptr && in.v.row_scale == nullptr);
  CHECK(out.row_scale == nullptr);
  CHECK(in.first_position >= 0 && in.first_position + in.q.rows <= in.kv.capacity);
}

}  // namespace

void cpu_attention(const AttentionInput& in, Tensor out, CpuScratch& scratch, ThreadPool& pool) {
  check(in, out);
  const int64_t tokens = in.q.rows;
  const int64_t head_dim = in.shape.head_dim;
  if (tokens == 0) return;
  append(in, pool);

  // A row of scores per worker, each on cache lines of its own.
  const int64_t positions = in.first_position + tokens;
  const int64_t scores_stride = (in.kv.capacity + 31) / 32 * 32;
  const int64_t scores_size = scores_stride * pool.threads();
  if (scratch.scores.size() < scores_size) scratch.scores = Buffer<float>(scores_size);

  // Heads outermost: neighbouring tasks read the same keys and values.
  const int64_t group = in.shape.heads / in.shape.kv_heads;
  const int64_t grain = std::max<int64_t>(1, kPieceWork / (2 * positions * head_dim));
  pool.parallel_for(in.shape.heads * tokens, grain, [&](Range range) {
    float* scores = scratch.scores.data() + range.worker * scores_stride;
    for (int64_t task = range.begin; task < range.end; ++task) {
      const int64_t head = task / tokens;
      const int64_t t = task % tokens;
      attend({in.kv, head_dim, head / group}, in.q.data + t * in.q.stride + head * head_dim,
             {scores, static_cast<size_t>(in.first_position + t + 1)},
             out.data + t * out.stride + head * head_dim);
    }
  });
}

}  // namespace subbit
