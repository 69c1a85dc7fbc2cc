// Targets and loss. With Z = sum_c w_c e^(l_c), q_c = w_c e^(l_c) / Z, and t the tail:
//
//   loss = sum_top p log(p / q) + p_t log(p_t / q_t)
//   d loss / d l_c = q_c - p_c in the top,  q_c - p_t q_c / q_t in the tail
#include "compress/tune/distillation.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <utility>

#include "base/check.h"
#include "base/wide_loop.h"
#include "linalg/exponential.h"
#include "linalg/row_reduction.h"

namespace subbit {
namespace {

/// The teacher's likeliest tokens that are matched one by one; the rest is matched as one outcome.
constexpr int64_t kTop = 32;
/// Columns drawn to estimate what lies outside: about as many as a window names by itself.
constexpr int64_t kDrawn = 512;
constexpr double kLeastTail = 1e-6;
/// Logits are looked through in blocks of so many.
constexpr int64_t kBlock = 32;

/// The `width` largest of `row`, largest first; of equals the one with the lower id. Where at least
/// `width` blocks reach up to some height, nothing below it can be among them.
std::vector<int32_t> top_of(const float* row, int64_t count, std::span<const float> block_maxima,
                            int64_t width) {
  std::vector<float> heights(block_maxima.begin(), block_maxima.end());
  float least = -std::numeric_limits<float>::infinity();
  if (std::ssize(heights) >= width) {
    const auto last = heights.begin() + (width - 1);
    std::nth_element(heights.begin(), last, heights.end(), std::greater<>());
    least = *last;
  }
  std::vector<int32_t> candidates;
  for (int64_t block = 0; block < std::ssize(block_maxima); ++block) {
    if (block_maxima[static_cast<size_t>(block)] < least) continue;
    const int64_t end = std::min(count, (block + 1) * kBlock);
    for (int64_t i = block * kBlock; i < end; ++i)
      if (!(row[i] < least)) candidates.push_back(static_cast<int32_t>(i));
  }
  std::partial_sort(
      candidates.begin(), candidates.begin() + width, candidates.end(),
      [&](int32_t a, int32_t b) { return row[a] != row[b] ? row[a] > row[b] : a < b; });
  candidates.resize(static_cast<size_t>(width));
  return candidates;
}

/// row := e^(row - largest); returns their sum.
double to_powers(float* row, int64_t count, float largest) {
  double total = 0.0;
  constexpr int64_t kRun = 4096;  // float sums are short, the total is double
  for (int64_t first = 0; first < count; first += kRun) {
    const int64_t some = std::min(kRun, count - first);
    for (int64_t i = first; i < first + some; ++i) row[i] = exponential(row[i] - largest);
    total += sum_of(row + first, some);
  }
  return total;
}

}  // namespace

TargetCollector::TargetCollector(int64_t rows, int64_t vocab) : vocab_(vocab) {
  targets_.rows = rows;
  targets_.width = target_width(vocab);
  const auto count = static_cast<size_t>(rows * targets_.width);
  targets_.columns.resize(count);
  targets_.probabilities.resize(count);
}

void TargetCollector::add(int64_t first, Matrix logits, ThreadPool& pool) {
  CHECK(logits.cols == vocab_);
  pool.parallel_for(logits.rows, 1, [&](Range range) {
    for (int64_t t = range.begin; t < range.end; ++t) add_row(first + t, logits.row(t));
  });
}

void TargetCollector::add_row(int64_t row, float* logits) {
  CHECK(row >= 0 && row < targets_.rows);
  std::vector<float> maxima(static_cast<size_t>((vocab_ + kBlock - 1) / kBlock));
  run_wide([&] {
    for (size_t block = 0; block < maxima.size(); ++block) {
      const int64_t first = static_cast<int64_t>(block) * kBlock;
      maxima[block] = largest_of(logits + first, std::min(kBlock, vocab_ - first));
    }
  });
  const std::vector<int32_t> top = top_of(logits, vocab_, maxima, targets_.width);
  double sum = 0.0;
  const float largest = logits[top[0]];
  run_wide([&] { sum = to_powers(logits, vocab_, largest); });
  for (int64_t k = 0; k < targets_.width; ++k) {
    const int32_t id = top[static_cast<size_t>(k)];
    const auto at = static_cast<size_t>(row * targets_.width + k);
    targets_.columns[at] = id;
    targets_.probabilities[at] = static_cast<float>(logits[id] / sum);
  }
}

TeacherTargets TargetCollector::take() {
  index_targets(targets_);
  return std::move(targets_);
}

int64_t target_width(int64_t vocab) { return std::min(kTop, vocab); }

void index_targets(TeacherTargets& targets) {
  std::vector<int32_t>& vocabulary = targets.vocabulary;
  vocabulary = targets.columns;
  std::sort(vocabulary.begin(), vocabulary.end());
  vocabulary.erase(std::unique(vocabulary.begin(), vocabulary.end()), vocabulary.end());
  for (int32_t& column : targets.columns) {
    column = static_cast<int32_t>(std::lower_bound(vocabulary.begin(), vocabulary.end(), column) -
                                  vocabulary.begin());
  }
}

int64_t most_columns(int64_t rows, int64_t vocab) {
  return std::min(vocab, rows * kTop + 2 * kDrawn);
}

HeadColumns all_columns(int64_t vocab) {
  HeadColumns columns;
  columns.tokens.resize(static_cast<size_t>(vocab));
  std::iota(columns.tokens.begin(), columns.tokens.end(), 0);
  columns.named = vocab;
  return columns;
}

HeadColumns choose_columns(const TeacherTargets& targets, int64_t vocab, Rng& rng) {
  HeadColumns columns;
  columns.tokens = targets.vocabulary;
  columns.named = std::ssize(targets.vocabulary);
  const int64_t others = vocab - columns.named;
  if (others <= 2 * kDrawn) {  // so few that all may come
    for (int32_t id = 0; id < vocab; ++id) {
      if (!std::binary_search(targets.vocabulary.begin(), targets.vocabulary.end(), id))
        columns.tokens.push_back(id);
    }
    columns.drawn_weight = 1.0f;
    return columns;
  }
  for (int64_t drawn = 0; drawn < kDrawn;) {
    const auto id = static_cast<int32_t>(rng.uniform() * static_cast<double>(vocab));
    if (std::binary_search(targets.vocabulary.begin(), targets.vocabulary.end(), id)) continue;
    columns.tokens.push_back(id);  // twice is no harm: the estimate stays unbiased
    ++drawn;
  }
  columns.drawn_weight = static_cast<float>(others) / static_cast<float>(kDrawn);
  return columns;
}

namespace {

/// One row's loss; `q` [columns] is scratch and, with a gradient, its place.
double row_loss(const TeacherTargets& targets, const HeadColumns& columns, int64_t t,
                const float* logits, float* q, const float* gradient_scale) {
  const auto count = static_cast<int64_t>(columns.tokens.size());
  const float largest = largest_of(logits, count);
  for (int64_t c = 0; c < count; ++c) q[c] = exponential(logits[c] - largest);
  const int64_t drawn = count - columns.named;
  const double z = static_cast<double>(sum_of(q, columns.named)) +
                   static_cast<double>(columns.drawn_weight) * sum_of(q + columns.named, drawn);
  for (int64_t c = columns.named; c < count; ++c) q[c] *= columns.drawn_weight;

  const int32_t* top = targets.columns.data() + t * targets.width;
  const float* p = targets.probabilities.data() + t * targets.width;
  double loss = 0.0;
  double top_p = 0.0;
  double top_q = 0.0;
  for (int64_t k = 0; k < targets.width; ++k) {
    const double q_k = std::max(q[top[k]] / z, 1e-30);
    if (p[k] > 0.0f) loss += p[k] * std::log(p[k] / q_k);
    top_p += p[k];
    top_q += q_k;
  }
  const double p_tail = std::max(1.0 - top_p, kLeastTail);
  const double q_tail = std::max(1.0 - top_q, kLeastTail);
  loss += p_tail * std::log(p_tail / q_tail);
  if (gradient_scale == nullptr) return loss;

  const double scale = *gradient_scale;
  const auto tail = static_cast<float>(scale * (1.0 - p_tail / q_tail) / z);
  const auto head = static_cast<float>(scale / z);
  std::vector<float> kept(static_cast<size_t>(targets.width));
  for (int64_t k = 0; k < targets.width; ++k) kept[static_cast<size_t>(k)] = q[top[k]];
  for (int64_t c = 0; c < count; ++c) q[c] *= tail;
  for (int64_t k = 0; k < targets.width; ++k)
    q[top[k]] = kept[static_cast<size_t>(k)] * head - static_cast<float>(scale) * p[k];
  return loss;
}

}  // namespace

double distillation_loss(const TeacherTargets& targets, const HeadColumns& columns,
                         ConstMatrix logits, const LossGradient* gradient, ThreadPool& pool) {
  CHECK(logits.rows == targets.rows && logits.cols == std::ssize(columns.tokens));
  std::vector<double> losses(static_cast<size_t>(logits.rows));
  wide_parallel_for(pool, logits.rows, 4, [&](Range range) {
    std::vector<float> scratch(static_cast<size_t>(logits.cols));
    for (int64_t t = range.begin; t < range.end; ++t) {
      float* q = gradient == nullptr ? scratch.data() : gradient->grad.row(t);
      losses[static_cast<size_t>(t)] = row_loss(targets, columns, t, logits.row(t), q,
                                                gradient == nullptr ? nullptr : &gradient->scale);
    }
  });
  double sum = 0.0;
  for (const double loss : losses) sum += loss;
  return sum;
}

}  // namespace subbit
