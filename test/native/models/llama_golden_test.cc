// The Llama family against logits that other implementations computed: transformers for the tiny
// models of test/fixtures/models, numpy for the real ones of the shared data.
#include <algorithm>
#include <cmath>

#include "support/golden.h"
#include "support/test.h"

namespace subbit {
namespace {

using test::Golden;
using test::Runner;

double largest_difference(const Golden& golden, const std::vector<float>& logits, int64_t vocab) {
  const size_t ids = golden.logits.size() / golden.tokens.size();
  double worst = 0;
  for (size_t t = 0; t < golden.tokens.size(); ++t) {
    for (size_t i = 0; i < ids; ++i) {
      const auto id = golden.ids.empty() ? i : static_cast<size_t>(golden.ids[i]);
      const float ours = logits[t * static_cast<size_t>(vocab) + id];
      worst = std::max(worst, double(std::fabs(ours - golden.logits[t * ids + i])));
    }
  }
  return worst;
}

// Both sides compute in float32 and differ in the order of their sums. A sum of K products is off
// by about sqrt(K) * 2^-24 of its magnitude; K is at most 768, the magnitudes of logits and of the
// residual stream below 32, and each of up to 13 sums in a row passes its error on: about
// 13 * 28 * 2^-24 * 32 = 7e-4 at worst, and far less for the tiny models (K = 44, 5 sums,
// magnitude 8: 2e-5 a sum).
constexpr double kTinyTolerance = 1e-4;
constexpr double kStoryTolerance = 7e-4;

void expect_tiny(const std::string& name) {
  const std::string folder = test::fixture("models/" + name);
  const Golden golden = test::read_golden(folder + "/golden.safetensors");
  EXPECT(golden.tokens.size() == 40);
  Runner runner(folder);
  const auto logits = runner.forward(golden.tokens);
  EXPECT_NEAR(largest_difference(golden, logits, 67), 0, kTinyTolerance);
}

TEST(grouped_queries_tied_embeddings_and_a_derived_head_dim_match_transformers) {
  expect_tiny("tiny-llama");
}
TEST(llama3_rope_biases_and_bfloat16_shards_match_transformers) { expect_tiny("tiny-llama3"); }
TEST(linear_rope_in_rope_parameters_and_float16_match_transformers) { expect_tiny("tiny-linear"); }
TEST(mistral_matches_transformers) { expect_tiny("tiny-mistral"); }

TEST(tokens_one_by_one_give_the_logits_of_the_whole_prompt) {
  const std::string folder = test::fixture("models/tiny-llama3");
  const Golden golden = test::read_golden(folder + "/golden.safetensors");
  Runner runner(folder);
  std::vector<float> logits;
  for (const int32_t token : golden.tokens) {
    const auto row = runner.forward({&token, 1});
    logits.insert(logits.end(), row.begin(), row.end());
  }
  EXPECT_NEAR(largest_difference(golden, logits, 67), 0, kTinyTolerance);
}

TEST(a_half_precision_kv_cache_moves_logits_by_its_rounding_only) {
  const std::string folder = test::fixture("models/tiny-llama");
  const Golden golden = test::read_golden(folder + "/golden.safetensors");
  Runner runner(folder, KvType::kF16);
  // Keys and values rounded to 2^-11 of themselves, through two attentions of magnitude below 8.
  EXPECT_NEAR(largest_difference(golden, runner.forward(golden.tokens), 67), 0, 4 * 8 * 0x1p-11);
}

TEST(an_int8_kv_cache_moves_logits_by_its_rounding_only) {
  const std::string folder = test::fixture("models/tiny-llama");
  const Golden golden = test::read_golden(folder + "/golden.safetensors");
  Runner runner(folder, KvType::kI8);
  // As above, but a row's columns are off by half a step of 1/127 of its largest: of its length,
  // that times the root of their number.
  const double off = 0.5 / 127 * std::sqrt(static_cast<double>(runner.model->config().head_dim));
  EXPECT_NEAR(largest_difference(golden, runner.forward(golden.tokens), 67), 0, 4 * 8 * off);
}

void expect_story(const std::string& name) {
  const std::string folder = test::shared_data("models/" + name);
  const Golden golden = test::read_golden(test::fixture("stories/" + name + ".safetensors"));
  Runner runner(folder);
  const auto vocab = runner.model->config().vocab_size;
  const auto logits = runner.forward(golden.tokens);
  EXPECT_NEAR(largest_difference(golden, logits, vocab), 0, kStoryTolerance);
}

TEST(stories260K_matches_numpy) { expect_story("stories260K"); }
TEST(stories15M_matches_numpy) { expect_story("stories15M"); }
TEST(a_tied_head_stored_as_lm_head_alone_matches_numpy) { expect_story("TinyStories-656K"); }

}  // namespace
}  // namespace subbit
