// attention: keys and values into the cache, then a few queries at a time, block by block of
// positions: scores, the softmax so far, sum of values. A row's arithmetic depends on its position
// alone, so prompts may be cut anywhere and queries shared out in any way to any number of threads.
#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/cpu/attention_kernels.h"
#include "backend/cpu/cpu_operations.h"
#include "base/check.h"
#include "base/wide_loop.h"
#include "linalg/exponential.h"

namespace subbit {
namespace {

constexpr int64_t kPieceWork = 1 << 16;  // multiply-adds: about 5 us

/// Positions between two looks at the softmax: keys and values of 64, 32 KiB at 128 columns of f16,
/// stay in a first-level cache while a tile's queries pass over them.
constexpr int64_t kBlock = 64;
/// Queries that share what is loaded of a block. Kernels take up to four abreast.
constexpr int64_t kTileRows = 8;
constexpr int64_t kTileFloats = 2048;  // of a tile's queries, and of its sums

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

/// What one row's softmax has seen of the blocks so far.
struct Softmax {
  float largest = std::numeric_limits<float>::lowest();
  float sum = 0.0f;
};

constexpr int64_t kStep = 16;  // of the loops over a block's scores

/// The largest of `count` scores, a multiple of kStep; a NaN is none.
inline float largest_of(const float* scores, int64_t count) {
  Float4 largest = load4(scores);
  for (int64_t p = 4; p < count; p += 4) {
    const Float4 four = load4(scores + p);
    largest = choose(four > largest, four, largest);
  }
  float most = std::numeric_limits<float>::lowest();
  for (int l = 0; l < 4; ++l) most = largest[l] > most ? largest[l] : most;
  return most;
}

/// In kStep sums, folded in halves.
inline float sum_of(const float* weights, int64_t count) {
  Float4 sums[4] = {};
  for (int64_t p = 0; p < count; p += kStep)
    for (int64_t v = 0; v < 4; ++v) sums[v] += load4(weights + p + 4 * v);
  const Float4 four = (sums[0] + sums[2]) + (sums[1] + sums[3]);
  return (four[0] + four[2]) + (four[1] + four[3]);
}

/// A block's first `count` scores, times `factors`, become weights e^(score - largest so far).
/// Returns what sums over earlier blocks must be multiplied by.
inline float soften(float* scores, const float* factors, int64_t count, Softmax& state) {
  const int64_t padded = (count + kStep - 1) / kStep * kStep;
  for (int64_t p = 0; p < count; ++p) scores[p] *= factors[p];
  std::fill(scores + count, scores + padded, std::numeric_limits<float>::lowest());
  const float most = largest_of(scores, padded);
  const float largest = most > state.largest ? most : state.largest;
  const float before = exponential(state.largest - largest);
  for (int64_t p = 0; p < padded; ++p) scores[p] = exponential(scores[p] - largest);
  std::fill(scores + count, scores + padded, 0.0f);
  state.sum = state.sum * before + sum_of(scores, padded);
  state.largest = largest;
  return before;
}

/// Queries [first_row, first_row + rows) of one KV head; row r is query head r % group of token
/// r / group, so that neighbours see about the same positions.
struct Tile {
  const AttentionInput& in;
  Tensor out;
  CachedHead cache;
  int64_t group = 0;
  int64_t first_row = 0;
  int64_t rows = 0;

  int64_t visible(int64_t r) const { return in.first_position + (first_row + r) / group + 1; }
  int64_t column(int64_t r) const {
    return (cache.head * group + (first_row + r) % group) * cache.head_dim;
  }
  const float* query(int64_t r) const {
    return in.q.data + (first_row + r) / group * in.q.stride + column(r);
  }
  float* result(int64_t r) const {
    return out.data + (first_row + r) / group * out.stride + column(r);
  }
};

/// Calls span(first row, rows, first position, positions) for the parts of the rectangle that rows
/// [from, tile.rows) see of the block at `begin`: what all of them see, and what each sees beyond.
template <typename Span>
inline void for_each_part(const Tile& tile, int64_t from, int64_t begin, const Span& span) {
  const int64_t common = std::min(kBlock, tile.visible(from) - begin);
  span(from, tile.rows - from, int64_t{0}, common);
  for (int64_t r = from; r < tile.rows; ++r) {
    const int64_t more = std::min(kBlock, tile.visible(r) - begin) - common;
    if (more > 0) span(r, int64_t{1}, common, more);
  }
}

/// The scales of a block's rows, times `factor`.
inline void gather_scales(const CachedHead& cache, void* base, int64_t begin, int64_t count,
                          float factor, float* scales) {
  const std::byte* rows = cache.at(base, begin);
  for (int64_t p = 0; p < count; ++p)
    scales[p] = code_scale(rows + p * cache.row_bytes(), cache.head_dim) * factor;
}

/// Attention of a tile's queries, with the softmax kept up to date from block to block (Milakov and
/// Gimelshein 2018). Blocks begin at multiples of kBlock for whoever looks at them.
inline void attend(const Tile& tile) {
  const AttentionKernels& kernels = attention_kernels().front();
  const CachedHead& cache = tile.cache;
  const int64_t width = cache.head_dim;
  const bool coded = cache.kv.type == KvType::kI8;
  const float scale = 1.0f / std::sqrt(static_cast<float>(width));
  float scores[kTileRows * kBlock];
  float factors[kBlock];
  float value_scales[kBlock];
  float few_floats[2 * kTileFloats];
  Buffer<float> many_floats(width > kTileFloats ? 2 * width : 0);  // a head like no model's
  float* const queries = width > kTileFloats ? many_floats.data() : few_floats;
  float* const sums = queries + tile.rows * width;
  Softmax states[kTileRows];
  std::fill_n(factors, kBlock, scale);
  for (int64_t r = 0; r < tile.rows; ++r) std::copy_n(tile.query(r), width, queries + r * width);
  std::fill_n(sums, tile.rows * width, 0.0f);

  int64_t from = 0;  // rows before it have seen all they may
  for (int64_t begin = 0; begin < tile.visible(tile.rows - 1); begin += kBlock) {
    while (tile.visible(from) <= begin) ++from;
    for_each_part(tile, from, begin, [&](int64_t r, int64_t rows, int64_t p, int64_t count) {
      kernels.scores({{cache.kv.type, cache.at(cache.kv.keys, begin + p), count, width},
                      rows,
                      queries + r * width,
                      width,
                      scores + r * kBlock + p,
                      kBlock});
    });
    if (coded) {
      const int64_t count = std::min(kBlock, tile.visible(tile.rows - 1) - begin);
      gather_scales(cache, cache.kv.keys, begin, count, scale, factors);
      gather_scales(cache, cache.kv.values, begin, count, 1.0f, value_scales);
    }
    for (int64_t r = from; r < tile.rows; ++r) {
      const int64_t count = std::min(kBlock, tile.visible(r) - begin);
      float* row = scores + r * kBlock;
      const float before = soften(row, factors, count, states[r]);
      for (int64_t d = 0; d < width; ++d) sums[r * width + d] *= before;
      if (!coded) continue;
      for (int64_t p = 0; p < count; ++p) row[p] *= value_scales[p];
    }
    for_each_part(tile, from, begin, [&](int64_t r, int64_t rows, int64_t p, int64_t count) {
      kernels.weighted_sum({{cache.kv.type, cache.at(cache.kv.values, begin + p), count, width},
                            rows,
                            scores + r * kBlock + p,
                            kBlock,
                            sums + r * width,
                            width});
    });
  }
  for (int64_t r = 0; r < tile.rows; ++r) {
    const float reciprocal = 1.0f / states[r].sum;
    float* result = tile.result(r);
    for (int64_t d = 0; d < width; ++d) result[d] = sums[r * width + d] * reciprocal;
  }
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

void cpu_attention(const AttentionInput& in, Tensor out, ThreadPool& pool) {
  check(in, out);
  const int64_t tokens = in.q.rows;
  const int64_t head_dim = in.shape.head_dim;
  if (tokens == 0) return;
  append(in, pool);

  // KV heads outermost: neighbouring tasks read the same keys and values. Tiles are as tall as
  // there are rows to go round, which changes no bit.
  const int64_t group = in.shape.heads / in.shape.kv_heads;
  const int64_t rows = tokens * group;
  const int64_t share = in.shape.heads * tokens / (2 * pool.threads());
  const int64_t most = std::clamp<int64_t>(kTileFloats / head_dim, 1, kTileRows);
  const int64_t tile_rows = std::clamp<int64_t>(share, 1, most);
  const int64_t tiles = (rows + tile_rows - 1) / tile_rows;
  const int64_t work = 2 * tile_rows * (in.first_position + tokens) * head_dim;
  const int64_t grain = std::max<int64_t>(1, kPieceWork / work);
  wide_parallel_for(pool, in.shape.kv_heads * tiles, grain, [&](Range range) {
    for (int64_t task = range.begin; task < range.end; ++task) {
      const int64_t first_row = task % tiles * tile_rows;
      const int64_t height = std::min(tile_rows, rows - first_row);
      attend({in, out, {in.kv, head_dim, task / tiles}, group, first_row, height});
    }
  });
}

}  // namespace subbit
