// The loss against its definition, its gradient against differences, its columns by counting.
#include "compress/tune/distillation.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "support/test.h"

namespace subbit {
namespace {

std::vector<float> random_logits(int64_t count, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i) values.push_back(2.0f * rng.normal());
  return values;
}

TeacherTargets targets_of(std::vector<float> logits, int64_t vocab, ThreadPool& pool) {
  const int64_t rows = std::ssize(logits) / vocab;
  TargetCollector collector(rows, vocab);
  collector.add(0, {logits.data(), rows, vocab}, pool);
  return collector.take();
}

std::vector<double> softmax(const float* logits, int64_t count) {
  std::vector<double> p;
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += p.emplace_back(std::exp(double{logits[i]}));
  for (double& x : p) x /= sum;
  return p;
}

TEST(with_a_vocabulary_within_the_top_the_loss_is_the_whole_divergence) {
  constexpr int64_t kVocab = 21;
  ThreadPool pool(2);
  auto teacher = random_logits(3 * kVocab, 1);
  auto student = random_logits(3 * kVocab, 2);
  const TeacherTargets targets = targets_of(teacher, kVocab, pool);
  Rng rng(3);
  const HeadColumns columns = choose_columns(targets, kVocab, rng);
  EXPECT_EQ(std::ssize(columns.tokens), kVocab);
  double expected = 0;
  for (int64_t t = 0; t < 3; ++t) {
    const auto p = softmax(teacher.data() + t * kVocab, kVocab);
    const auto q = softmax(student.data() + t * kVocab, kVocab);
    for (int64_t i = 0; i < kVocab; ++i) expected += p[i] * std::log(p[i] / q[i]);
  }
  const double loss =
      distillation_loss(targets, columns, {student.data(), 3, kVocab}, nullptr, pool);
  EXPECT_NEAR(loss, expected, 1e-4);  // the tail counts as 1e-6, float probabilities as 1e-7 each
}

TEST(the_gradient_of_the_loss_is_its_slope_with_a_tail_and_drawn_columns) {
  constexpr int64_t kVocab = 3000;
  constexpr int64_t kRows = 2;
  ThreadPool pool(2);
  auto teacher = random_logits(kRows * kVocab, 4);
  const TeacherTargets targets = targets_of(teacher, kVocab, pool);
  Rng rng(5);
  const HeadColumns columns = choose_columns(targets, kVocab, rng);
  const auto width = std::ssize(columns.tokens);
  EXPECT(width < kVocab && columns.drawn_weight > 1.0f);
  auto logits = random_logits(kRows * width, 6);
  std::vector<float> grad(logits.size());
  const LossGradient gradient{{grad.data(), kRows, width}, 0.5f};
  const Matrix view(logits.data(), kRows, width);
  distillation_loss(targets, columns, view, &gradient, pool);
  for (size_t i = 0; i < logits.size(); i += 7) {
    const float value = logits[i];
    logits[i] = value + 0x1p-7f;
    const double above = distillation_loss(targets, columns, view, nullptr, pool);
    logits[i] = value - 0x1p-7f;
    const double slope = (above - distillation_loss(targets, columns, view, nullptr, pool)) * 64;
    logits[i] = value;
    // Losses are off by 1e-6 (float powers), times 64; gradients are below one.
    EXPECT_NEAR(grad[i], 0.5 * slope, 3e-4);
  }
}

TEST(the_top_of_the_teacher_is_kept_in_order_with_its_probabilities) {
  ThreadPool pool(1);
  std::vector<float> logits(5000, -30.0f);
  logits[4999] = 1.0f;
  logits[7] = 3.0f;
  logits[8] = 3.0f;
  const TeacherTargets targets = targets_of(logits, 5000, pool);
  const auto id = [&](int k) { return targets.vocabulary[targets.columns[k]]; };
  EXPECT_EQ(id(0), 7);
  EXPECT_EQ(id(1), 8);
  EXPECT_EQ(id(2), 4999);
  EXPECT_NEAR(targets.probabilities[0], 1.0 / (2.0 + std::exp(-2.0)), 1e-6);
  EXPECT(std::is_sorted(targets.vocabulary.begin(), targets.vocabulary.end()));
}

TEST(the_top_is_that_of_a_full_sort_however_logits_lie) {
  ThreadPool pool(2);
  // Fewer blocks than the top is wide, a block's rest, ties everywhere, one block holding all.
  for (const int64_t vocab : {31, 33, 100, 1023, 1024, 1025, 5000}) {
    for (int kind = 0; kind < 3; ++kind) {
      std::vector<float> logits = random_logits(vocab, static_cast<uint64_t>(vocab));
      for (int64_t i = 0; i < vocab; ++i) {
        float& logit = logits[static_cast<size_t>(i)];
        if (kind == 1) logit = std::round(logit);
        if (kind == 2) logit = -0.01f * static_cast<float>(i);
      }
      const TeacherTargets targets = targets_of(logits, vocab, pool);
      std::vector<int32_t> ids(static_cast<size_t>(vocab));
      std::iota(ids.begin(), ids.end(), 0);
      std::sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) {
        return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
      });
      const std::vector<double> p = softmax(logits.data(), vocab);
      for (int64_t k = 0; k < targets.width; ++k) {
        EXPECT_EQ(targets.vocabulary[targets.columns[k]], ids[k]);
        // Two ulp of exp, and of a sum in strands.
        EXPECT_NEAR(targets.probabilities[k], p[ids[k]], 1e-5 * p[ids[k]]);
      }
    }
  }
}

TEST(drawn_columns_stand_for_all_others) {
  ThreadPool pool(1);
  auto logits = random_logits(4 * 9000, 8);
  const TeacherTargets targets = targets_of(logits, 9000, pool);
  Rng rng(9);
  const HeadColumns columns = choose_columns(targets, 9000, rng);
  const auto drawn = std::ssize(columns.tokens) - columns.named;
  EXPECT_NEAR(columns.named + drawn * columns.drawn_weight, 9000, 0.01);
  for (int64_t c = columns.named; c < std::ssize(columns.tokens); ++c) {
    EXPECT(!std::binary_search(targets.vocabulary.begin(), targets.vocabulary.end(),
                               columns.tokens[c]));
  }
}

}  // namespace
}  // namespace subbit
