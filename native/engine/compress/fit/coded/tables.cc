// Lloyd's iterations. Nearest entries are found by many threads, sums run in the samples' order.
#include "compress/fit/coded/tables.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "base/wide_loop.h"
#include "compress/fit/coded/codebook.h"
#include "formats/term.h"

namespace subbit {
namespace {

constexpr int kBalanceRounds = 6;
constexpr int kLloydRounds = 16;
constexpr int64_t kRowsPerTask = 8;
constexpr int64_t kColumnsPerTask = 64;
constexpr int64_t kSamplesPerTask = 256;

/// scale[i] *= the root mean square of row i of diag(post) \ w / diag(pre).
void balance_rows(ConstMatrix w, BalancedScales& scales, ThreadPool& pool) {
  pool.parallel_for(w.rows, kRowsPerTask, [&](Range range) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      double sum = 0.0;
      for (int64_t j = 0; j < w.cols; ++j) {
        const double pre = scales.pre[static_cast<size_t>(j)];
        if (pre > 0.0) sum += (w.at(i, j) / pre) * (w.at(i, j) / pre);
      }
      scales.post[static_cast<size_t>(i)] =
          static_cast<float>(std::sqrt(sum / static_cast<double>(w.cols)));
    }
  });
}

void balance_columns(ConstMatrix w, BalancedScales& scales, ThreadPool& pool) {
  pool.parallel_for(w.cols, kColumnsPerTask, [&](Range range) {
    std::vector<double> sums(static_cast<size_t>(range.end - range.begin), 0.0);
    for (int64_t i = 0; i < w.rows; ++i) {
      const double post = scales.post[static_cast<size_t>(i)];
      if (!(post > 0.0)) continue;
      for (int64_t j = range.begin; j < range.end; ++j) {
        const double value = w.at(i, j) / post;
        sums[static_cast<size_t>(j - range.begin)] += value * value;
      }
    }
    for (int64_t j = range.begin; j < range.end; ++j) {
      const double mean = sums[static_cast<size_t>(j - range.begin)] / static_cast<double>(w.rows);
      scales.pre[static_cast<size_t>(j)] = static_cast<float>(std::sqrt(mean));
    }
  });
}

double mean_square(std::span<const float> values) {
  double sum = 0.0;
  for (const float value : values) sum += static_cast<double>(value) * value;
  return values.empty() ? 0.0 : sum / static_cast<double>(values.size());
}

/// As many samples as entries, without one twice where there are enough.
std::vector<float> first_entries(const TableSamples& samples, Rng& rng) {
  std::vector<float> entries;
  std::vector<int64_t> left;
  for (int64_t s = 0; s < samples.count(); ++s) left.push_back(s);
  for (int64_t e = 0; e < kTableEntries; ++e) {
    if (left.empty()) {
      for (int64_t j = 0; j < samples.width; ++j) entries.push_back(rng.normal());
      continue;
    }
    const auto pick = static_cast<size_t>(rng.uniform() * static_cast<double>(left.size()));
    const float* from = samples.values.data() + left[pick] * samples.width;
    entries.insert(entries.end(), from, from + samples.width);
    left[pick] = left.back();
    left.pop_back();
  }
  return entries;
}

/// One round: every entry becomes the weighted mean of the samples nearest to it. One that has none
/// takes the place of a sample.
void improve(const TableSamples& samples, std::vector<float>& entries, Rng& rng, ThreadPool& pool) {
  const Codebook codebook(entries, samples.width);
  std::vector<uint8_t> nearest(static_cast<size_t>(samples.count()));
  wide_parallel_for(pool, samples.count(), kSamplesPerTask, [&](Range range) {
    for (int64_t s = range.begin; s < range.end; ++s)
      nearest[static_cast<size_t>(s)] = codebook.nearest(samples.values.data() + s * samples.width);
  });
  std::vector<double> sums(entries.size(), 0.0);
  std::vector<double> weights(static_cast<size_t>(kTableEntries), 0.0);
  for (int64_t s = 0; s < samples.count(); ++s) {
    const size_t entry = nearest[static_cast<size_t>(s)];
    const double weight = samples.weights[static_cast<size_t>(s)];
    weights[entry] += weight;
    for (int64_t j = 0; j < samples.width; ++j)
      sums[entry * static_cast<size_t>(samples.width) + static_cast<size_t>(j)] +=
          weight * samples.values[static_cast<size_t>(s * samples.width + j)];
  }
  for (size_t e = 0; e < weights.size(); ++e) {
    const auto sample = static_cast<int64_t>(rng.uniform() * static_cast<double>(samples.count()));
    for (size_t j = 0; j < static_cast<size_t>(samples.width); ++j) {
      const size_t at = e * static_cast<size_t>(samples.width) + j;
      if (weights[e] > 0.0)
        entries[at] = static_cast<float>(sums[at] / weights[e]);
      else
        entries[at] = samples.values[static_cast<size_t>(sample * samples.width) + j];
    }
  }
}

}  // namespace

BalancedScales balanced_scales(ConstMatrix w, ThreadPool& pool) {
  for (int64_t i = 0; i < w.rows; ++i) {
    double sum = 0.0;
    for (int64_t j = 0; j < w.cols; ++j) sum += static_cast<double>(w.at(i, j)) * w.at(i, j);
    if (!(sum < std::numeric_limits<float>::max()))
      throw Error(ErrorCode::kNonFinite, "a weight is not finite, or too large to be squared");
  }
  BalancedScales scales{std::vector<float>(static_cast<size_t>(w.rows), 1.0f),
                        std::vector<float>(static_cast<size_t>(w.cols), 1.0f)};
  for (int round = 0; round < kBalanceRounds; ++round) {
    balance_rows(w, scales, pool);
    balance_columns(w, scales, pool);
  }
  const double size = std::sqrt(mean_square(scales.pre));
  if (size > 0.0)
    for (float& scale : scales.pre) scale = static_cast<float>(scale / size);
  balance_rows(w, scales, pool);
  return scales;
}

void add_samples(ConstMatrix w, std::span<const float> inputs, int64_t count, Rng& rng,
                 ThreadPool& pool, TableSamples& samples) {
  const int64_t width = samples.width;
  CHECK(width > 0 && w.rows > 0 && w.cols > 0);
  CHECK(inputs.empty() || std::ssize(inputs) == w.cols);
  const BalancedScales scales = balanced_scales(w, pool);
  const auto one_of = [&](int64_t choices) {
    return std::min(choices - 1,
                    static_cast<int64_t>(rng.uniform() * static_cast<double>(choices)));
  };
  // Only whole pieces: the last of a row may be short. Every row of a narrow matrix is.
  const int64_t pieces = w.cols / width;
  const size_t before = samples.weights.size();
  double total = 0.0;
  for (int64_t s = 0; pieces > 0 && s < count; ++s) {
    const int64_t row = one_of(w.rows);
    const int64_t first = width * one_of(pieces);
    double weight = 0.0;
    for (int64_t j = first; j < first + width; ++j) {
      const double pre = scales.pre[static_cast<size_t>(j)];
      const double size = pre * scales.post[static_cast<size_t>(row)];
      samples.values.push_back(size > 0.0 ? static_cast<float>(w.at(row, j) / size) : 0.0f);
      weight += size * size * (inputs.empty() ? 1.0 : inputs[static_cast<size_t>(j)]);
    }
    samples.weights.push_back(static_cast<float>(weight));
    total += weight;
  }
  // An equal relative error costs as much in every linear, whatever its weights' size.
  const auto added = static_cast<double>(samples.weights.size() - before);
  for (size_t s = before; s < samples.weights.size(); ++s)
    samples.weights[s] =
        total > 0.0 ? static_cast<float>(samples.weights[s] * added / total) : 1.0f;
}

Table learn_table(const TableSamples& samples, uint64_t seed, ThreadPool& pool) {
  Rng rng(seed);
  std::vector<float> entries = first_entries(samples, rng);
  for (int round = 0; samples.count() > 0 && round < kLloydRounds; ++round)
    improve(samples, entries, rng, pool);
  float largest = 0.0f;
  for (const float entry : entries) largest = std::max(largest, std::fabs(entry));
  CHECK(std::isfinite(largest));
  const float scale = largest > 0.0f ? 127.0f / largest : 0.0f;
  Table table{samples.width, {}};
  for (const float entry : entries)
    table.entries.push_back(static_cast<int8_t>(std::lrint(entry * scale)));
  return table;
}

}  // namespace subbit
