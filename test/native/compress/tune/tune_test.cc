// Tuning a tiny model through the public call: it must help, cost no byte, and be repeatable. (Its
// bytes on several threads and after an interruption are compress_test.cc's.)
#include "compress/tune/tune.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "base/rng.h"
#include "compress/tune/factored_map.h"
#include "compress/tune/teacher.h"
#include "engine.h"
#include "models/registry.h"
#include "support/files.h"
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
  request.target.amount = 6.0;
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

CompressRequest tuned_request(const std::string& out) {
  CompressRequest request;
  request.source = test::fixture("models/tiny-llama");
  request.out = out;
  request.target.amount = 6.0;
  request.calibration = random_windows(40, 1);
  request.effort = Effort::kFast;
  request.threads = 2;
  return request;
}

TEST(embedding_and_head_learn_too_unless_told_to_stand) {
  const std::string directory = test::temporary_directory();
  const auto ends_of = [&](float rate, const std::string& name, double& loss) {
    CompressRequest request = tuned_request(directory + "/" + name);
    request.ends.embedding = 2;
    request.stages.model.end_rate = rate;
    JobControl control;
    compress(request, control);
    EvaluateRequest evaluation;
    evaluation.path = request.out;
    evaluation.teacher_path = request.source;
    evaluation.windows = random_windows(10, 2);
    evaluation.threads = 2;
    loss = evaluate(evaluation, control).kl_mean;
    const SafetensorsFile file(request.out + "/model.safetensors");
    const std::span<const std::byte> bytes = file.find("model.embed_tokens.int2")->bytes;
    return std::vector<std::byte>(bytes.begin(), bytes.end());
  };
  double standing_loss = 0;
  double moving_loss = 0;
  const auto standing = ends_of(0.0f, "standing", standing_loss);
  const auto moving = ends_of(0.1f, "moving", moving_loss);
  EXPECT_EQ(standing.size(), moving.size());
  EXPECT(standing != moving);
  EXPECT(moving_loss < 0.95 * standing_loss);
}

/// What a compression reports of its tuning.
struct Reports {
  std::vector<std::string> sampled;
  std::vector<std::string> details;
  double first_step = -1;
};

/// Aborts after `last_step` steps of tuning; 0: never.
Reports compress_until(const CompressRequest& request, double last_step) {
  Reports reports;
  JobControl control;
  control.on_progress = [&](const Progress& progress) {
    if (progress.phase == "sample") reports.sampled.push_back(progress.detail);
    if (progress.phase != "tune") return;
    reports.details.push_back(progress.detail);
    if (reports.first_step < 0) reports.first_step = progress.loaded;
    if (last_step > 0 && progress.loaded == last_step) control.abort = true;
  };
  if (last_step > 0) {
    EXPECT_ERROR(ErrorCode::kAborted, "aborted", compress(request, control));
  } else {
    compress(request, control);
  }
  return reports;
}

/// The one file of this name below `directory`.
std::string find_file(const std::string& directory, const std::string& name) {
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory))
    if (entry.path().filename() == name) return entry.path().string();
  return {};
}

TEST(an_interrupted_tuning_continues_to_the_same_bytes) {
  const std::string directory = test::temporary_directory();
  compress_until(tuned_request(directory + "/whole"), 0);
  const std::string expected = test::read_file(directory + "/whole/model.safetensors");

  const CompressRequest request = tuned_request(directory + "/parts");
  EXPECT(!compress_until(request, 17).sampled.empty());
  Reports reports = compress_until(request, 33);  // from the state after step 10
  EXPECT(reports.sampled.empty());
  EXPECT_EQ(reports.first_step, 10.0);
  EXPECT_EQ(reports.details[0], std::string("continued from the saved state"));
  reports = compress_until(request, 0);
  EXPECT_EQ(reports.first_step, 30.0);
  EXPECT(test::read_file(directory + "/parts/model.safetensors") == expected);
  EXPECT(!std::filesystem::exists(directory + "/parts.state"));
}

TEST(a_tuning_whose_state_is_damaged_says_so_and_starts_over_to_the_same_bytes) {
  const std::string directory = test::temporary_directory();
  compress_until(tuned_request(directory + "/whole"), 0);
  const std::string expected = test::read_file(directory + "/whole/model.safetensors");

  const CompressRequest request = tuned_request(directory + "/damaged");
  compress_until(request, 12);
  for (const char* name : {"tuning-state.safetensors", "tuning-text.safetensors"}) {
    const std::string path = find_file(directory + "/damaged.state", name);
    EXPECT(!path.empty());
    const std::string bytes = test::read_file(path);
    std::ofstream(path, std::ios::binary) << bytes.substr(0, bytes.size() / 2);
  }
  const Reports reports = compress_until(request, 0);
  EXPECT(!reports.sampled.empty());
  EXPECT_EQ(reports.first_step, 0.0);
  EXPECT_EQ(reports.details[0], std::string("the saved state cannot be read: starting over"));
  EXPECT(test::read_file(directory + "/damaged/model.safetensors") == expected);
}

/// A factored linear of small integers and what a mixture of its outputs must come to: U V written
/// out, in double. Every activation is its own code and no gradient of one needs more than
/// bfloat16's eight bits, so what the map computes is exact.
struct IntegerLinear {
  static constexpr int64_t kRows = 5;
  static constexpr int64_t kCols = 7;
  static constexpr int64_t kRank = 32;
  static constexpr int64_t kTokens = 3;

  explicit IntegerLinear(PreScale pre_scale) : pre_scale(pre_scale) {
    fit.u = signs(kRows, kRank);
    fit.v = signs(kRank, kCols);
    fit.s_post = {1.0f, 2.0f, -1.0f, 0.0f, 0.5f};
    fit.s_pre = {1.0f, -1.0f, 2.0f, 1.0f, 0.5f, 1.0f, -2.0f};
    if (pre_scale == PreScale::kFolded) fit.s_pre.assign(kCols, 1.0f);
    x = integers(kTokens * kCols, 4);
    grad_y = integers(kTokens * kRows, 3);
  }
  SignMatrix signs(int64_t rows, int64_t cols) {
    SignMatrix m{rows, cols, {}};
    for (int64_t i = 0; i < rows * cols; ++i) m.bits.push_back(rng.uniform() < 0.5);
    return m;
  }
  std::vector<float> integers(int64_t count, int largest) {
    std::vector<float> values;
    for (int64_t i = 0; i < count; ++i)
      values.push_back(static_cast<float>(std::floor(rng.uniform() * (2 * largest + 1)) - largest));
    return values;
  }
  FittedLinear linear() const {
    FittedLinear result;
    result.pre_scale = pre_scale;
    result.fit = fit;
    return result;
  }
  double u(int64_t i, int64_t k) const { return fit.u.bits[i * kRank + k] ? 1 : -1; }
  double v(int64_t k, int64_t j) const { return fit.v.bits[k * kCols + j] ? 1 : -1; }
  /// sum_tj grad_y[t][i] s_post[i] u[i][k] v[k][j] s_pre[j] x[t][j]
  double share(int64_t i, int64_t k, int64_t j) const {
    double sum = 0;
    for (int64_t t = 0; t < kTokens; ++t) sum += double{grad_y[t * kRows + i]} * x[t * kCols + j];
    return sum * fit.s_post[i] * u(i, k) * v(k, j) * fit.s_pre[j];
  }
  double loss() const {
    double sum = 0;
    for (int64_t i = 0; i < kRows; ++i)
      for (int64_t k = 0; k < kRank; ++k)
        for (int64_t j = 0; j < kCols; ++j) sum += share(i, k, j);
    return sum;
  }
  /// The loss is linear in every number.
  double slope(float& number) {
    const double before = loss();
    number += 1.0f;
    const double slope = loss() - before;
    number -= 1.0f;
    return slope;
  }
  /// Squares of the slopes of all signs, and of the scales relative to their sizes (TunedVector).
  double gradient_squares() {
    double squares = 0;
    for (int64_t i = 0; i < kRows; ++i) {
      for (int64_t k = 0; k < kRank; ++k) {
        double own = 0;
        for (int64_t j = 0; j < kCols; ++j) own += share(i, k, j);
        squares += own * own;
      }
    }
    for (int64_t k = 0; k < kRank; ++k) {
      for (int64_t j = 0; j < kCols; ++j) {
        double own = 0;
        for (int64_t i = 0; i < kRows; ++i) own += share(i, k, j);
        squares += own * own;
      }
    }
    squares += scale_squares(fit.s_post);
    return pre_scale == PreScale::kOwn ? squares + scale_squares(fit.s_pre) : squares;
  }
  double scale_squares(std::vector<float>& scales) {
    double mean = 0;
    for (const float scale : scales) mean += std::fabs(scale) / static_cast<double>(scales.size());
    double squares = 0;
    for (float& scale : scales) {
      const double own = slope(scale) * std::max(std::fabs(double{scale}), 0.1 * mean);
      squares += own * own;
    }
    return squares;
  }

  PreScale pre_scale;
  Rng rng{3};
  FactoredFit fit;
  std::vector<float> x;
  std::vector<float> grad_y;
};

TEST(a_factored_map_has_the_gradients_of_its_signs_and_scales_and_passes_them_on) {
  for (const PreScale pre_scale : {PreScale::kOwn, PreScale::kFolded}) {
    IntegerLinear m(pre_scale);
    constexpr int64_t kTokens = IntegerLinear::kTokens;
    ThreadPool pool(2);
    FactoredMap map(m.linear(), 0.3f, CodeRounding::kOn, pool);
    std::vector<float> saved(kTokens * map.saved_per_token());
    std::vector<float> y(m.grad_y.size());
    std::vector<float> grad_x(m.x.size());
    const ConstMatrix x(m.x.data(), kTokens, m.kCols);
    const ConstMatrix grad_y(m.grad_y.data(), kTokens, m.kRows);
    for (const int pass : {1, 2}) {  // gradients of passes add up until the step
      map.forward(x, {y.data(), kTokens, m.kRows}, saved);
      map.backward(x, grad_y, saved, {grad_x.data(), kTokens, m.kCols});
      double mixed = 0;
      for (size_t i = 0; i < y.size(); ++i) mixed += double{m.grad_y[i]} * y[i];
      EXPECT_EQ(mixed, m.loss());
      for (size_t j = 0; j < m.x.size(); ++j) EXPECT_EQ(grad_x[j], m.slope(m.x[j]));
      if (pass == 1) continue;
      // The sums are floats: some hundred roundings of 2^-24 each.
      const double expected = 4.0 * m.gradient_squares();
      EXPECT_NEAR(map.finish_gradients(), expected, 1e-5 * expected);
    }
  }
}

TEST(dropped_gradients_leave_no_trace) {
  IntegerLinear m(PreScale::kOwn);
  ThreadPool pool(1);
  FactoredMap map(m.linear(), 0.3f, CodeRounding::kOn, pool);
  std::vector<float> saved(m.kTokens * map.saved_per_token());
  std::vector<float> y(m.grad_y.size());
  std::vector<float> grad_x(m.x.size());
  const ConstMatrix x(m.x.data(), m.kTokens, m.kCols);
  const ConstMatrix grad_y(m.grad_y.data(), m.kTokens, m.kRows);
  const auto gathered = [&] {
    map.forward(x, {y.data(), m.kTokens, m.kRows}, saved);
    map.backward(x, grad_y, saved, {grad_x.data(), m.kTokens, m.kCols});
    return map.finish_gradients();
  };
  const double first = gathered();
  map.drop_gradients();
  EXPECT_EQ(gathered(), first);
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
