// Learning tables: k-means over pieces of weights, each counting by how much its inputs matter
// (AQLM's start, arXiv 2401.06118). A model has one table for each width in use, and every linear
// of the body shares it; what differs between linears is in their scales.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/matrix.h"
#include "base/rng.h"
#include "base/thread_pool.h"
#include "compress/fit/coded/coded.h"

namespace subbit {

/// w ~ diag(post) z diag(pre), where every row and every column of z has a mean square of about
/// one. A row or column of zeros has scale zero.
struct BalancedScales {
  std::vector<float> post;  // [rows]
  std::vector<float> pre;   // [cols], their root mean square one
};
BalancedScales balanced_scales(ConstMatrix w, ThreadPool& pool);

/// Pieces of balanced weights, and what each counts.
struct TableSamples {
  int64_t width = 0;
  std::vector<float> values;   // [count, width]
  std::vector<float> weights;  // [count], not negative

  int64_t count() const { return std::ssize(weights); }
};

/// Adds `count` pieces of `w` from places that `rng` chooses, as a table term over all columns
/// would see them. `inputs` is the mean square of every input, or empty.
void add_samples(ConstMatrix w, std::span<const float> inputs, int64_t count, Rng& rng,
                 ThreadPool& pool, TableSamples& samples);

/// The same samples and seed give the same table on any number of threads. Fewer samples than
/// entries are padded with noise.
Table learn_table(const TableSamples& samples, uint64_t seed, ThreadPool& pool);

}  // namespace subbit
