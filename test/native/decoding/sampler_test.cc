// Sampling: what each option keeps, and that a seed fixes the outcome.
#include "decoding/sampler.h"

#include <cmath>
#include <map>

#include "support/test.h"

namespace subbit {
namespace {

const std::vector<float> kLogits = {1.0f, 3.0f, 2.0f, 3.0f, -1.0f};

int32_t sample_once(const SamplerOptions& options, std::vector<float> logits = kLogits) {
  Sampler sampler(options);
  return sampler.sample(logits);
}

/// How often each token comes in many draws.
std::map<int32_t, double> frequencies(const SamplerOptions& options) {
  Sampler sampler(options);
  std::map<int32_t, double> counts;
  const int draws = 20000;
  for (int i = 0; i < draws; ++i) {
    std::vector<float> logits = kLogits;
    counts[sampler.sample(logits)] += 1.0 / draws;
  }
  return counts;
}

TEST(greedy_takes_the_largest_logit_and_the_lower_id_of_a_tie) { EXPECT_EQ(sample_once({}), 1); }

TEST(draws_follow_the_softmax_at_the_temperature) {
  SamplerOptions options;
  options.temperature = 2.0f;
  options.seed = 5;
  double total = 0;
  for (const float logit : kLogits) total += std::exp(logit / 2.0);
  const auto counts = frequencies(options);
  for (int32_t i = 0; i < 5; ++i) {
    const double p = std::exp(kLogits[static_cast<size_t>(i)] / 2.0) / total;
    // Five standard deviations of a binomial share.
    EXPECT_NEAR(counts.at(i), p, 5 * std::sqrt(p * (1 - p) / 20000));
  }
}

TEST(top_k_top_p_and_min_p_keep_what_they_say) {
  SamplerOptions top_k;
  top_k.temperature = 1.0f;
  top_k.top_k = 2;
  EXPECT_EQ(frequencies(top_k).size(), size_t{2});
  SamplerOptions top_p;
  top_p.temperature = 1.0f;
  top_p.top_p = 0.5f;  // the two largest hold 0.40 each: the second is needed to reach 0.5
  EXPECT_EQ(frequencies(top_p).size(), size_t{2});
  top_p.top_p = 0.0f;
  EXPECT_EQ(frequencies(top_p).size(), size_t{1});
  SamplerOptions min_p;
  min_p.temperature = 1.0f;
  min_p.min_p = 0.3f;  // e^-1 = 0.37 stays, e^-2 = 0.14 goes
  EXPECT_EQ(frequencies(min_p).size(), size_t{3});
}

TEST(a_seed_fixes_every_draw) {
  SamplerOptions options;
  options.temperature = 1.5f;
  options.seed = 42;
  Sampler a(options);
  Sampler b(options);
  options.seed = 43;
  Sampler c(options);
  int different = 0;
  for (int i = 0; i < 200; ++i) {
    std::vector<float> x = kLogits;
    std::vector<float> y = kLogits;
    std::vector<float> z = kLogits;
    const int32_t token = a.sample(x);
    EXPECT_EQ(token, b.sample(y));
    different += token != c.sample(z);
  }
  EXPECT(different > 0);
}

TEST(penalties_and_biases_move_the_choice) {
  SamplerOptions repetition;
  repetition.repetition_penalty = 1.6f;  // 3 / 1.6 < 2
  Sampler sampler(repetition);
  const int32_t seen[] = {1, 3};
  sampler.observe(seen);
  std::vector<float> logits = kLogits;
  EXPECT_EQ(sampler.sample(logits), 2);

  SamplerOptions frequency;
  frequency.frequency_penalty = 0.6f;
  Sampler counting(frequency);
  const int32_t twice[] = {1, 1, 3};
  counting.observe(twice);
  logits = kLogits;  // 1: 3 - 1.2, 3: 3 - 0.6
  EXPECT_EQ(counting.sample(logits), 3);

  SamplerOptions bias;
  bias.logit_bias = {{4, 100.0f}, {9999, 1.0f}, {-1, 1.0f}};
  EXPECT_EQ(sample_once(bias), 4);
}

TEST(logits_that_are_not_numbers_are_an_error) {
  EXPECT_ERROR(ErrorCode::kNonFinite, "logit", sample_once({}, {1.0f, NAN}));
}

}  // namespace
}  // namespace subbit
