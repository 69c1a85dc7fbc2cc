// Sampling: what each option keeps, and that a seed fixes the outcome.
#include "decoding/sampler.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <vector>

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

/// What the options mean, written down plainly: everything sorted, every probability exact.
int32_t sample_plainly(const std::vector<float>& logits, const SamplerOptions& options, Rng& rng) {
  std::vector<int32_t> order(logits.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  const auto logit = [&](int32_t token) { return logits[static_cast<size_t>(token)]; };
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return logit(a) != logit(b) ? logit(a) > logit(b) : a < b;
  });
  if (options.top_k > 0) order.resize(std::min(order.size(), static_cast<size_t>(options.top_k)));
  std::vector<double> weights;
  double total = 0;
  for (const int32_t token : order) {
    weights.push_back(std::exp((logit(token) - logit(order[0])) / double{options.temperature}));
    total += weights.back();
  }
  size_t kept = 1;
  double mass = 1;
  while (kept < weights.size() && mass < options.top_p * total && weights[kept] >= options.min_p)
    mass += weights[kept++];
  double left = rng.uniform() * mass;
  for (size_t i = 0; i + 1 < kept; ++i) {
    left -= weights[i];
    if (left < 0) return order[i];
  }
  return order[kept - 1];
}

/// Like a model's: mostly alike, a few far above, some that are equal.
std::vector<float> many_logits(size_t count, float spread, Rng& rng) {
  std::vector<float> logits(count);
  for (float& logit : logits) logit = std::round(spread * rng.normal() * 64) / 64;
  for (size_t i = 0; i < count; i += 97) logits[i] += 3 * spread;
  // One alone, and the rest just where the first look ends at temperature 1.
  if (spread < 1) logits[count / 2] = 6.0f;
  return logits;
}

struct Filters {
  float temperature;
  int32_t top_k = 0;
  float top_p = 1.0f;
  float min_p = 0.0f;
};
constexpr Filters kFilters[] = {{0.8f},
                                {1.5f, 40},
                                {1.0f, 0, 0.9f},
                                {0.01f},
                                {50.0f, 0, 1.0f, 0.1f},
                                {1.0f, 9000, 0.999f, 0.001f},
                                {1.0f, 4000}};

TEST(draws_are_those_of_sorting_the_whole_vocabulary) {
  Rng rng(3);
  int draws = 0;
  int different = 0;
  for (const size_t count : {size_t{1}, size_t{15}, size_t{16}, size_t{17}, size_t{5000}}) {
    for (const float spread : {0.0f, 0.01f, 2.5f, 40.0f}) {
      for (const Filters& set : kFilters) {
        SamplerOptions options;
        options.temperature = set.temperature;
        options.top_k = set.top_k;
        options.top_p = set.top_p;
        options.min_p = set.min_p;
        options.seed = rng.next();
        Sampler sampler(options);
        Rng same(options.seed);
        for (int i = 0; i < 8; ++i) {
          std::vector<float> logits = many_logits(count, spread, rng);
          const int32_t expected = sample_plainly(logits, options, same);
          ++draws;
          different += sampler.sample(logits) != expected;
        }
      }
    }
  }
  // Weights are floats here and doubles there: a draw that falls within 1e-6 of a border may fall
  // on its other side, and so may a mass that top-p asks for.
  EXPECT(different <= draws / 200);
}

TEST(what_a_penalty_makes_infinite_is_never_drawn_and_not_an_error) {
  SamplerOptions options;
  options.temperature = 1.0f;
  options.repetition_penalty = 100.0f;
  options.logit_bias = {{1, -3.4e38f}, {3, -3.4e38f}};
  Sampler sampler(options);
  const int32_t seen[] = {1, 3};
  sampler.observe(seen);
  for (int i = 0; i < 100; ++i) {
    std::vector<float> logits = kLogits;
    const int32_t token = sampler.sample(logits);
    EXPECT(token != 1 && token != 3);
  }
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
  for (const float odd : {NAN, -NAN, INFINITY, -INFINITY}) {
    for (const size_t at : {size_t{0}, size_t{31}, size_t{32}}) {
      std::vector<float> logits(33, 1.0f);
      logits[at] = odd;
      EXPECT_ERROR(ErrorCode::kNonFinite, "logit", sample_once({}, logits));
    }
  }
}

TEST(greedy_finds_the_first_of_the_largest_wherever_it_lies) {
  for (const size_t count : {size_t{1}, size_t{16}, size_t{33}}) {
    for (size_t at = 0; at < count; ++at) {
      std::vector<float> logits(count, -2.0f);
      logits[at] = -1.0f;
      logits[count - 1] = -1.0f;
      EXPECT_EQ(sample_once({}, logits), static_cast<int32_t>(at));
    }
  }
}

}  // namespace
}  // namespace subbit
