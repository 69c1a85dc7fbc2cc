// Prefill and decode: chunks, rewinding, limits, aborts, and the scores built on them.
#include <cmath>

#include "decoding/evaluate.h"
#include "support/golden.h"
#include "support/test.h"

namespace subbit {
namespace {

using test::Runner;

std::string tiny() { return test::fixture("models/tiny-llama"); }

std::vector<int32_t> prompt(size_t count) {
  auto tokens = test::read_golden(tiny() + "/golden.safetensors").tokens;
  tokens.resize(count);
  return tokens;
}

TEST(a_prompt_cut_into_pieces_gives_the_same_bits) {
  Runner whole(tiny());
  const auto tokens = prompt(40);
  const auto expected = whole.forward(tokens);
  for (const size_t cut : {2, 7, 20, 38}) {
    Runner pieces(tiny(), KvType::kF32, 1);
    auto logits = pieces.forward(std::span(tokens).first(cut));
    const auto rest = pieces.forward(std::span(tokens).subspan(cut));
    logits.insert(logits.end(), rest.begin(), rest.end());
    EXPECT(logits == expected);
  }
}

TEST(rewinding_forgets_what_came_after) {
  Runner runner(tiny());
  const auto tokens = prompt(20);
  const auto expected = runner.forward(tokens);
  runner.decoder.rewind(5);
  EXPECT_EQ(runner.decoder.position(), 5);
  const auto again = runner.forward(std::span(tokens).subspan(5));
  EXPECT(std::equal(again.begin(), again.end(), expected.begin() + 5 * 67));
}

TEST(a_full_context_and_a_foreign_token_are_errors_that_change_nothing) {
  Runner runner(tiny());
  runner.forward(prompt(40));
  EXPECT_ERROR(ErrorCode::kContextOverflow, "at most 64", runner.forward(prompt(25)));
  EXPECT_EQ(runner.decoder.position(), 40);
  const std::vector<int32_t> foreign = {3, 67};
  EXPECT_ERROR(ErrorCode::kInvalidOption, "0..66", runner.forward(foreign));
  const std::vector<int32_t> negative = {-1};
  EXPECT_ERROR(ErrorCode::kInvalidOption, "vocabulary", runner.forward(negative));
  EXPECT_EQ(runner.decoder.position(), 40);
}

TEST(an_abort_ends_a_prefill_and_gives_the_position_back) {
  Runner runner(tiny());
  const std::atomic<bool> abort{true};
  EXPECT_ERROR(ErrorCode::kAborted, "aborted",
               runner.decoder.forward(prompt(10), LogitRows::kLast, abort, [](int64_t, Matrix) {}));
  EXPECT_EQ(runner.decoder.position(), 0);
}

TEST(logprobs_are_the_softmax_of_the_logits) {
  Runner runner(tiny());
  const auto tokens = prompt(40);
  const auto logits = runner.forward(tokens);
  const std::atomic<bool> abort{false};
  const auto logprobs = next_token_logprobs(runner.decoder, tokens, abort, runner.pool);
  EXPECT_EQ(logprobs.size(), size_t{39});
  for (size_t t = 0; t < logprobs.size(); ++t) {
    double sum = 0;
    for (size_t i = 0; i < 67; ++i) sum += std::exp(double(logits[t * 67 + i]));
    const double expected = logits[t * 67 + static_cast<size_t>(tokens[t + 1])] - std::log(sum);
    EXPECT_NEAR(logprobs[t], expected, 1e-5);
  }
}

TEST(a_model_does_not_diverge_from_itself_but_does_from_another) {
  Runner a(tiny());
  Runner b(tiny());
  Runner other(test::fixture("models/tiny-mistral"));
  const auto tokens = prompt(40);
  const std::atomic<bool> abort{false};
  const WindowScore same = score_window(a.decoder, &b.decoder, tokens, abort, a.pool);
  const WindowScore different = score_window(a.decoder, &other.decoder, tokens, abort, a.pool);
  double kl = 0;
  for (size_t i = 0; i < 39; ++i) {
    EXPECT_NEAR(same.divergences[i].kl, 0, 1e-12);
    EXPECT(same.divergences[i].same_top1);
    EXPECT(different.divergences[i].kl > 0);
    kl += different.divergences[i].kl / 39;
  }
  EXPECT(kl > 0.1);
  EXPECT(same.logprobs == same.teacher_logprobs);
}

}  // namespace
}  // namespace subbit
