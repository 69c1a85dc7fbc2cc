// The loops of attention in vectors, one text for every width. A file that includes it is compiled
// for one instruction set and has said before what a vector is: SUBBIT_TARGET, the attribute its
// functions carry, and `Vector`:
//
//   Floats, kLanes                               a vector of floats
//   kQueries                                     scored at once; divides kLanes
//   kSumQueries, kSumVectors                     what fits the registers in a sum of values
//   zero(), broadcast(x), add(a, b), fma(a, b, c)
//   load(p), load_some(p, count)                 from float, Half, int8_t; zeros behind `count`
//   store(p, v), store_some(p, v, count)
//   fold(v)                                      lane j: v[j]'s lanes, added up in halves
#pragma once

#include <algorithm>

#include "backend/cpu/attention_kernels.h"

#if defined(__clang__)
#define SUBBIT_UNROLL _Pragma("unroll")
#else
#define SUBBIT_UNROLL _Pragma("GCC unroll 16")
#endif

namespace subbit {
namespace {

constexpr int64_t kPartialSums = 32;

template <typename Stored>
const Stored* row_of(const KvRows& rows, int64_t position) {
  return reinterpret_cast<const Stored*>(rows.first +
                                         position * kv_row_bytes(rows.type, rows.width));
}

/// A single query passes over rows once, at the speed of memory, and turns from keys to values and
/// back at every block: what comes next is asked for this far ahead.
constexpr int64_t kPrefetchBytes = 8192;

inline void prefetch_beyond(const void* row, int64_t row_bytes) {
  const auto* next = static_cast<const std::byte*>(row) + kPrefetchBytes;
  for (int64_t line = 0; line < row_bytes; line += 64) __builtin_prefetch(next + line);
}

/// Key . q for kQueries queries: the partial sums of each, folded until they are one vector.
template <typename Stored, int kQueries>
SUBBIT_TARGET inline void dot_key(const Stored* key, const float* q, int64_t q_stride,
                                  int64_t width, Vector::Floats out[kQueries]) {
  constexpr int kLanes = Vector::kLanes;
  constexpr int kParts = kPartialSums / kLanes;
  Vector::Floats sums[kQueries][kParts];
  for (int r = 0; r < kQueries; ++r)
    for (int part = 0; part < kParts; ++part) sums[r][part] = Vector::zero();
  int64_t k = 0;
  for (; k + kPartialSums <= width; k += kPartialSums) {
    for (int part = 0; part < kParts; ++part) {
      const int64_t at = k + part * kLanes;
      const Vector::Floats w = Vector::load(key + at);
      for (int r = 0; r < kQueries; ++r)
        sums[r][part] = Vector::fma(w, Vector::load(q + r * q_stride + at), sums[r][part]);
    }
  }
  if (k < width) {
    SUBBIT_UNROLL for (int part = 0; part < kParts; ++part) {
      const int64_t at = k + part * kLanes;
      if (at < width) {
        const int64_t count = std::min<int64_t>(kLanes, width - at);
        const Vector::Floats w = Vector::load_some(key + at, count);
        SUBBIT_UNROLL for (int r = 0; r < kQueries; ++r) {
          const Vector::Floats x = Vector::load_some(q + r * q_stride + at, count);
          sums[r][part] = Vector::fma(w, x, sums[r][part]);
        }
      }
    }
  }
  SUBBIT_UNROLL for (int r = 0; r < kQueries; ++r) {
    SUBBIT_UNROLL for (int half = kParts / 2; half > 0; half /= 2)
        SUBBIT_UNROLL for (int part = 0; part < half; ++part) sums[r][part] =
            Vector::add(sums[r][part], sums[r][part + half]);
    out[r] = sums[r][0];
  }
}

/// kQueries queries from `query` on against all keys, as many keys at a time as make one vector of
/// scores.
template <typename Stored, int kQueries>
SUBBIT_TARGET void score_queries(const AttentionKernels::Scores& job, int64_t query) {
  constexpr int kLanes = Vector::kLanes;
  constexpr int kKeys = kLanes / kQueries;
  const float* q = job.q + query * job.q_stride;
  float* scores = job.scores + query * job.scores_stride;
  for (int64_t p = 0; p < job.keys.count; p += kKeys) {
    const int64_t keys = std::min<int64_t>(kKeys, job.keys.count - p);
    Vector::Floats dots[kLanes];
    SUBBIT_UNROLL for (int64_t i = 0; i < kKeys; ++i) {
      Vector::Floats of_key[kQueries];
      if (i < keys) {
        const Stored* key = row_of<Stored>(job.keys, p + i);
        if (kQueries == 1) prefetch_beyond(key, kv_row_bytes(job.keys.type, job.keys.width));
        dot_key<Stored, kQueries>(key, q, job.q_stride, job.keys.width, of_key);
      } else {
        std::fill_n(of_key, kQueries, Vector::zero());
      }
      for (int r = 0; r < kQueries; ++r) dots[r * kKeys + i] = of_key[r];
    }
    float lanes[kLanes];
    Vector::store(lanes, Vector::fold(dots));
    for (int r = 0; r < kQueries; ++r)
      std::copy_n(lanes + r * kKeys, keys, scores + r * job.scores_stride + p);
  }
}

template <typename Stored>
void scores_typed(const AttentionKernels::Scores& job) {
  int64_t query = 0;
  for (; query + Vector::kQueries <= job.queries; query += Vector::kQueries)
    score_queries<Stored, Vector::kQueries>(job, query);
  for (; query < job.queries; ++query) score_queries<Stored, 1>(job, query);
}

/// Columns [column, column + kVectors vectors) of kQueries sums, which stay in registers over all
/// positions.
template <typename Stored, int kQueries, int kVectors>
SUBBIT_TARGET void sum_columns(const AttentionKernels::WeightedSum& job, int64_t query,
                               int64_t column) {
  constexpr int kLanes = Vector::kLanes;
  float* to = job.sums + query * job.sums_stride + column;
  const float* weights = job.weights + query * job.weights_stride;
  Vector::Floats sums[kQueries][kVectors];
  for (int r = 0; r < kQueries; ++r)
    for (int v = 0; v < kVectors; ++v)
      sums[r][v] = Vector::load(to + r * job.sums_stride + v * kLanes);
  for (int64_t p = 0; p < job.values.count; ++p) {
    const Stored* value = row_of<Stored>(job.values, p) + column;
    if (kQueries == 1) prefetch_beyond(value, sizeof(Stored) * kVectors * kLanes);
    Vector::Floats loaded[kVectors];
    for (int v = 0; v < kVectors; ++v) loaded[v] = Vector::load(value + v * kLanes);
    for (int r = 0; r < kQueries; ++r) {
      const Vector::Floats weight = Vector::broadcast(weights[r * job.weights_stride + p]);
      for (int v = 0; v < kVectors; ++v) sums[r][v] = Vector::fma(weight, loaded[v], sums[r][v]);
    }
  }
  for (int r = 0; r < kQueries; ++r)
    for (int v = 0; v < kVectors; ++v)
      Vector::store(to + r * job.sums_stride + v * kLanes, sums[r][v]);
}

/// The last columns, fewer than a vector has lanes.
template <typename Stored>
SUBBIT_TARGET void sum_last_columns(const AttentionKernels::WeightedSum& job, int64_t query,
                                    int64_t column) {
  const int64_t count = job.values.width - column;
  float* to = job.sums + query * job.sums_stride + column;
  Vector::Floats sum = Vector::load_some(to, count);
  for (int64_t p = 0; p < job.values.count; ++p) {
    const Stored* value = row_of<Stored>(job.values, p) + column;
    const float weight = job.weights[query * job.weights_stride + p];
    sum = Vector::fma(Vector::broadcast(weight), Vector::load_some(value, count), sum);
  }
  Vector::store_some(to, sum, count);
}

template <typename Stored, int kQueries>
void sum_queries(const AttentionKernels::WeightedSum& job, int64_t query) {
  constexpr int kLanes = Vector::kLanes;
  constexpr int kVectors = Vector::kSumVectors;
  const int64_t width = job.values.width;
  int64_t d = 0;
  // One query leaves registers for twice as many columns.
  if constexpr (kQueries == 1)
    for (; d + 2 * kVectors * kLanes <= width; d += 2 * kVectors * kLanes)
      sum_columns<Stored, kQueries, 2 * kVectors>(job, query, d);
  for (; d + kVectors * kLanes <= width; d += kVectors * kLanes)
    sum_columns<Stored, kQueries, kVectors>(job, query, d);
  if (d + 3 * kLanes <= width && kVectors > 3) {
    sum_columns<Stored, kQueries, 3>(job, query, d);
    d += 3 * kLanes;
  }
  for (; d + kLanes <= width; d += kLanes) sum_columns<Stored, kQueries, 1>(job, query, d);
  if (d == width) return;
  for (int r = 0; r < kQueries; ++r) sum_last_columns<Stored>(job, query + r, d);
}

template <typename Stored>
void weighted_sum_typed(const AttentionKernels::WeightedSum& job) {
  int64_t query = 0;
  for (; query + Vector::kSumQueries <= job.queries; query += Vector::kSumQueries)
    sum_queries<Stored, Vector::kSumQueries>(job, query);
  for (; query < job.queries; ++query) sum_queries<Stored, 1>(job, query);
}

void scores_in_vectors(const AttentionKernels::Scores& job) {
  switch (job.keys.type) {
    case KvType::kF32:
      return scores_typed<float>(job);
    case KvType::kF16:
      return scores_typed<Half>(job);
    case KvType::kI8:
      return scores_typed<int8_t>(job);
  }
}

void weighted_sum_in_vectors(const AttentionKernels::WeightedSum& job) {
  switch (job.values.type) {
    case KvType::kF32:
      return weighted_sum_typed<float>(job);
    case KvType::kF16:
      return weighted_sum_typed<Half>(job);
    case KvType::kI8:
      return weighted_sum_typed<int8_t>(job);
  }
}

}  // namespace
}  // namespace subbit
