// Log-probabilities and divergences. Sums run in double: a mean over thousands of tokens is
// compared at the third decimal.
#include "decoding/evaluate.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace subbit {
namespace {

/// log(sum(exp(row))).
double log_sum_exp(const float* row, int64_t count) {
  const float largest = *std::max_element(row, row + count);
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += std::exp(static_cast<double>(row[i]) - largest);
  return std::log(sum) + largest;
}

Divergence divergence(const float* teacher, const float* model, int64_t count) {
  const double teacher_log_sum = log_sum_exp(teacher, count);
  const double model_log_sum = log_sum_exp(model, count);
  Divergence result;
  for (int64_t i = 0; i < count; ++i) {
    const double log_p = static_cast<double>(teacher[i]) - teacher_log_sum;
    const double log_q = static_cast<double>(model[i]) - model_log_sum;
    result.kl += std::exp(log_p) * (log_p - log_q);
  }
  result.same_top1 = std::max_element(teacher, teacher + count) - teacher ==
                     std::max_element(model, model + count) - model;
  return result;
}

/// Log-probabilities of the tokens that follow rows [first, first + logits.rows).
void score_rows(std::span<const int32_t> tokens, int64_t first, ConstMatrix logits,
                std::vector<float>& logprobs, ThreadPool& pool) {
  pool.parallel_for(logits.rows, 1, [&](Range range) {
    for (int64_t row = range.begin; row < range.end; ++row) {
      const int32_t next = tokens[static_cast<size_t>(first + row + 1)];
      const double log_sum = log_sum_exp(logits.row(row), logits.cols);
      logprobs[static_cast<size_t>(first + row)] =
          static_cast<float>(static_cast<double>(logits.at(row, next)) - log_sum);
    }
  });
}

}  // namespace

std::vector<float> next_token_logprobs(Decoder& decoder, std::span<const int32_t> tokens,
                                       const std::atomic<bool>& abort, ThreadPool& pool) {
  return score_window(decoder, nullptr, tokens, abort, pool).logprobs;
}

WindowScore score_window(Decoder& model, Decoder* teacher, std::span<const int32_t> tokens,
                         const std::atomic<bool>& abort, ThreadPool& pool) {
  WindowScore score;
  if (tokens.size() < 2) return score;
  const auto predictions = tokens.size() - 1;
  const auto inputs = tokens.first(predictions);
  score.logprobs.resize(predictions);
  if (teacher != nullptr) {
    score.teacher_logprobs.resize(predictions);
    score.divergences.resize(predictions);
  }
  model.rewind(0);
  if (teacher != nullptr) teacher->rewind(0);
  // In step, a few rows at a time: both models' logits are alive together but never whole.
  for (size_t done = 0; done < predictions; done += Decoder::kLogitRows) {
    const auto piece =
        inputs.subspan(done, std::min<size_t>(Decoder::kLogitRows, predictions - done));
    const auto first = static_cast<int64_t>(done);
    model.forward(piece, LogitRows::kAll, abort, [&](int64_t, Matrix logits) {
      score_rows(tokens, first, logits, score.logprobs, pool);
      if (teacher == nullptr) return;
      teacher->forward(piece, LogitRows::kAll, abort, [&](int64_t, Matrix teacher_logits) {
        score_rows(tokens, first, teacher_logits, score.teacher_logprobs, pool);
        pool.parallel_for(logits.rows, 1, [&](Range range) {
          for (int64_t row = range.begin; row < range.end; ++row) {
            score.divergences[static_cast<size_t>(first + row)] =
                divergence(teacher_logits.row(row), logits.row(row), logits.cols);
          }
        });
      });
    });
  }
  return score;
}

}  // namespace subbit
