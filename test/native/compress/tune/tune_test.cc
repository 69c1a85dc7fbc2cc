// Tuning a tiny model through the public call: it must help, cost no byte, and be repeatable. (Its
// bytes on several threads and after an interruption are compress_test.cc's.)
#include "compress/tune/tune.h"

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "base/rng.h"
#include "compress/tune/factored_map.h"
#include "compress/tune/teacher.h"
#include "engine.h"
#include "models/registry.h"
#include "support/test.h"

namespace subbit {
namespace {

std::vector<std::vector<int32_t>> random_windows(int count, uint64_t seed) {
  Rng rng(seed);
  std::vector<std::vector<int32_t>> windows;
  for (int w = 0; w < count; ++w) {
    std::vector<int32_t> window = {1};
    for (int i = 0; i < 31; ++i) window.push_back(static_cast<int32_t>(rng.uniform() * 67));
    windows.push_back(window);
  }
  return windows;
}

double divergence_of(const std::string& fixture, const std::string& out, bool tune,
                     uint64_t& bytes) {
  CompressRequest request;
  request.source = test::fixture("models/" + fixture);
  request.out = out;
  request.bits_per_weight = 6.0;
  request.calibration = random_windows(40, 1);
  request.effort = Effort::kFast;
  request.threads = 2;
  request.tune = tune;
  JobControl control;
  bytes = compress(request, control).bytes;
  EvaluateRequest evaluation;
  evaluation.path = out;
  evaluation.teacher_path = request.source;
  evaluation.windows = random_windows(10, 2);
  evaluation.threads = 2;
  return evaluate(evaluation, control).kl_mean;
}

TEST(tuning_brings_a_model_nearer_to_its_teacher_on_text_it_never_saw_and_costs_no_byte) {
  for (const char* fixture : {"tiny-llama", "tiny-llama3"}) {
    const std::string directory = test::temporary_directory();
    uint64_t plain_bytes = 0;
    uint64_t tuned_bytes = 0;
    const double plain = divergence_of(fixture, directory + "/plain", false, plain_bytes);
    const double tuned = divergence_of(fixture, directory + "/tuned", true, tuned_bytes);
    EXPECT_EQ(plain_bytes, tuned_bytes);
    EXPECT(tuned < 0.8 * plain);
  }
}

TEST(a_factored_map_has_the_gradients_of_its_scales_and_passes_them_on) {
  constexpr int64_t kRows = 5;
  constexpr int64_t kCols = 7;
  constexpr int64_t kRank = 32;
  Rng rng(3);
  const auto signs = [&](int64_t rows, int64_t cols) {
    SignMatrix m{rows, cols, {}};
    for (int64_t i = 0; i < rows * cols; ++i) m.bits.push_back(rng.uniform() < 0.5);
    return m;
  };
  const auto random = [&](int64_t count) {
    std::vector<float> values;
    for (int64_t i = 0; i < count; ++i) values.push_back(rng.normal());
    return values;
  };
  FittedLinear linear;
  linear.pre_scale = PreScale::kOwn;
  FactoredFit fit;
  fit.u = signs(kRows, kRank);
  fit.v = signs(kRank, kCols);
  fit.s_post = random(kRows);
  fit.s_pre = random(kCols);
  linear.fit = fit;
  ThreadPool pool(2);
  FactoredMap map(linear, 0.3f, CodeRounding::kOff, pool);
  std::vector<float> x = random(3 * kCols);
  std::vector<float> grad_y = random(3 * kRows);
  const auto loss = [&] {  // U V written out, in double
    double sum = 0;
    for (int64_t t = 0; t < 3; ++t)
      for (int64_t i = 0; i < kRows; ++i)
        for (int64_t k = 0; k < kRank; ++k)
          for (int64_t j = 0; j < kCols; ++j) {
            const double u = fit.u.bits[i * kRank + k] ? 1 : -1;
            const double v = fit.v.bits[k * kCols + j] ? 1 : -1;
            sum += grad_y[t * kRows + i] * u * v * fit.s_post[i] * fit.s_pre[j] * x[t * kCols + j];
          }
    return sum;
  };
  std::vector<float> saved(3 * kRank);
  std::vector<float> y(3 * kRows);
  std::vector<float> grad_x(3 * kCols);
  map.forward({x.data(), 3, kCols}, {y.data(), 3, kRows}, saved);
  map.backward({x.data(), 3, kCols}, {grad_y.data(), 3, kRows}, saved, {grad_x.data(), 3, kCols});
  double mixed = 0;
  for (size_t i = 0; i < y.size(); ++i) mixed += double{grad_y[i]} * y[i];
  // Sums of 32 * 7 floats of magnitude near one: 224 * 2^-24 each, a thousand of them together.
  EXPECT_NEAR(mixed, loss(), 1e-2);
  for (size_t j = 0; j < x.size(); ++j) {
    const float value = x[j];
    x[j] = value + 1.0f;  // the loss is linear in x
    const double above = loss();
    x[j] = value;
    EXPECT_NEAR(grad_x[j], above - loss(), 1e-3);
  }
}

TEST(text_of_the_teachers_own_making_has_the_targets_it_gives_when_it_reads_that_text) {
  const std::string path = test::fixture("models/tiny-llama");
  const Checkpoint checkpoint = Checkpoint::open(path);
  const auto model =
      find_architecture(checkpoint.config(), path).load(checkpoint, WeightMode::kAsStored);
  ThreadPool pool(2);
  Teacher teacher(*model, 16, pool);
  int64_t told = 0;
  const auto windows = teacher.write({3, 16, 1, 7}, [&](int64_t tokens) { told = tokens; });
  EXPECT_EQ(windows.size(), size_t{3});
  EXPECT_EQ(told, 48);
  EXPECT(windows[0].tokens != windows[1].tokens);
  for (const TrainingWindow& window : windows) {
    EXPECT_EQ(window.tokens.size(), size_t{16});
    EXPECT_EQ(window.tokens[0], 1);
    const TeacherTargets read = teacher.targets(window.tokens);
    // By id: two tokens of equal rank may change places between the two ways to compute.
    const auto sum_for = [](const TeacherTargets& t, int64_t row, int32_t id) {
      double p = 0;
      for (int64_t k = 0; k < t.width; ++k)
        if (t.vocabulary[t.columns[row * t.width + k]] == id)
          p += t.probabilities[row * t.width + k];
      return p;
    };
    for (int64_t row = 0; row < 16; ++row) {
      const int32_t likeliest = read.vocabulary[read.columns[row * read.width]];
      EXPECT_NEAR(sum_for(read, row, likeliest), sum_for(window.targets, row, likeliest), 1e-5);
    }
  }
}

}  // namespace
}  // namespace subbit
