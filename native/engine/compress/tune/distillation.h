// What the student is to imitate: the teacher's likeliest next tokens, kept small, and the forward
// KL divergence to them (Hinton et al. 2015, at temperature 1).
//
// A head over 32,000 tokens would cost more than the whole body. So of the teacher's distribution
// the top k are kept and the rest is one number, the tail; and the student's head computes only
// the columns that some row of the window names, plus a few drawn at random that stand for all
// others in the sum under the softmax.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/matrix.h"
#include "base/rng.h"
#include "base/thread_pool.h"

namespace subbit {

/// Of one window: per row `width` tokens, as indices into `vocabulary`, and their probabilities.
struct TeacherTargets {
  int64_t rows = 0;
  int64_t width = 0;
  std::vector<int32_t> vocabulary;   // token ids, ascending, each once
  std::vector<int32_t> columns;      // [rows, width]
  std::vector<float> probabilities;  // [rows, width]
};

/// How many of a row's tokens are matched one by one.
int64_t target_width(int64_t vocab);
/// Targets whose `columns` still hold token ids: from now on they hold indices into `vocabulary`.
void index_targets(TeacherTargets& targets);

/// Gathers targets from logits as they come, and leaves in their place e^(logit - the row's
/// largest): whoever wants to draw from them needs the same.
class TargetCollector {
 public:
  TargetCollector(int64_t rows, int64_t vocab);
  /// Keeps the top of logits [count, vocab] for rows [first, first + count).
  void add(int64_t first, Matrix logits, ThreadPool& pool);
  /// The same for one row, logits [vocab]; rows may come from different threads.
  void add_row(int64_t row, float* logits);
  TeacherTargets take();

 private:
  int64_t vocab_;
  TeacherTargets targets_;  // columns hold token ids until take()
};

/// The columns a head computes for one window: its targets' vocabulary, then the drawn ones.
struct HeadColumns {
  std::vector<int32_t> tokens;
  int64_t named = 0;
  float drawn_weight = 0.0f;  // how many tokens each drawn one stands for
};
/// No window of `rows` tokens asks for more.
int64_t most_columns(int64_t rows, int64_t vocab);
/// The whole vocabulary: targets' `columns` are then token ids.
HeadColumns all_columns(int64_t vocab);
HeadColumns choose_columns(const TeacherTargets& targets, int64_t vocab, Rng& rng);

/// Sum over the rows of KL(teacher || student), in nats, tails as one outcome. `logits` [rows,
/// columns]; where `grad` is not null it gets the gradient times `scale`.
struct LossGradient {
  Matrix grad;
  float scale = 1.0f;
};
double distillation_loss(const TeacherTargets& targets, const HeadColumns& columns,
                         ConstMatrix logits, const LossGradient* gradient, ThreadPool& pool);

}  // namespace subbit
