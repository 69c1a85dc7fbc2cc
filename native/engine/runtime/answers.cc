// Why roundings have to be measured. Two right back ends compute the same integers, but rho,
// rotations, softmax and silu may differ in a float's last bit. Now and then that moves an
// eight-bit code by a step; a step moves some of the next linear's codes, and so on through the
// layers and, by the cache, into later tokens. In a shallow model most answers agree to 1e-10; in a
// deep one nearly none can. What bounds all of it is a pass whose roundings are independent of the
// first one's: the difference is then of variance 1/6 of a step squared in every code. A pass whose
// inputs were moved by a uniform number of up to half a step crosses to a neighbouring code a
// quarter of the time: variance 1/4. So however many codes a right device moves, one or all, it
// stays nearer to the processor than that pass does, up to the spread of two random numbers.
//
// Logits are compared by the root mean square of their differences: a sum over the vocabulary of
// what a hidden state of hundreds of independent errors leaves, which spreads little. (Divergences
// hang on the few likeliest tokens, and one answer's may be a hundred times another's.)
#include "runtime/answers.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <limits>
#include <utility>

#include "base/rng.h"
#include "decoding/decoder.h"

namespace subbit {
namespace {

/// More than a tile's (kGemmTokens), so that the prompt kernels' times mean something.
constexpr int64_t kPromptTokens = 33;
constexpr int64_t kFewTokens = 3;
constexpr int64_t kDecodedTokens = 4;
constexpr int64_t kTokens = kPromptTokens + kFewTokens + kDecodedTokens;

/// Times what other roundings were seen to do. Of 120 passes with all roundings otherwise (two
/// models, 60 seeds), none went beyond 1.9 times the first such pass, in the median answer, the
/// worst, or one logit; the logarithms of the ratios spread by 0.3, so 4 is four and a half
/// spreads. What is broken everywhere is ten times and more. What is broken in one column of
/// hundreds may hide below: the kernels' own trials look for that.
constexpr double kMost = 4;

std::vector<int32_t> trial_tokens(int64_t vocab) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < kTokens; ++i) {
    // Spread over the vocabulary; which ones does not matter.
    tokens.push_back(static_cast<int32_t>((i * 7919 + 1) % vocab));
  }
  return tokens;
}

class OtherRoundings final : public ForwardingBackend {
 public:
  explicit OtherRoundings(Backend& inner) : ForwardingBackend(inner) {}

  void linear(const Linear& linear, Tensor x, Tensor y) override {
    inner_.linear(linear, moved(x), y);
  }
  void linear_add(const Linear& linear, Tensor x, Tensor y) override {
    inner_.linear_add(linear, moved(x), y);
  }

 private:
  Tensor moved(const Tensor& x) {
    values_.resize(static_cast<size_t>(x.rows * x.cols));
    Tensor out = x;
    out.data = values_.data();
    out.stride = x.cols;
    for (int64_t t = 0; t < x.rows; ++t) {
      for (int64_t first = 0; first < x.cols; first += kChunk) {
        const int64_t count = std::min(kChunk, x.cols - first);
        const float* from = x.data + t * x.stride + first;
        float* to = out.data + t * out.stride + first;
        float largest = 0;
        for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::fabs(from[i]));
        int exponent = 0;
        std::frexp(largest, &exponent);
        const double step = largest == 0 ? 0 : std::ldexp(1.0, exponent - 7);
        for (int64_t i = 0; i < count; ++i) {
          to[i] = static_cast<float>(from[i] + (rng_.uniform() - 0.5) * step);
        }
      }
    }
    return out;
  }

  static constexpr int64_t kChunk = 32;  // of columns that share a step
  Rng rng_{1};
  std::vector<float> values_;
};

/// Of two rows of logits.
struct Apart {
  double mean_square = 0;
  double largest = 0;
};

Apart apart(const std::vector<float>& a, const std::vector<float>& b) {
  Apart result;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = static_cast<double>(a[i]) - b[i];
    result.mean_square += difference * difference / static_cast<double>(a.size());
    result.largest = std::max(result.largest, std::fabs(difference));
  }
  // A maximum does not see what is no number.
  if (!std::isfinite(result.mean_square)) result.largest = std::numeric_limits<double>::infinity();
  return result;
}

/// Over all answers.
struct Distances {
  double median = 0;
  double worst = 0;
  double one_logit = 0;
};

Distances distances(const Answers& reference, const Answers& given) {
  std::vector<double> all;
  Distances result;
  for (size_t i = 0; i < reference.logits.size(); ++i) {
    const Apart one = apart(reference.logits[i], given.logits[i]);
    all.push_back(std::isfinite(one.mean_square) ? std::sqrt(one.mean_square) : one.largest);
    result.one_logit = std::max(result.one_logit, one.largest);
  }
  std::ranges::sort(all);
  result.median = all[all.size() / 2];
  result.worst = all.back();
  return result;
}

/// Whether the back end finds the largest of its own logits.
bool finds_largest(const Answers& given) {
  const std::vector<float>& logits = given.logits.back();
  return std::ranges::max_element(logits) - logits.begin() == given.likeliest;
}

}  // namespace

Answers answer(Model& model, Backend& backend, KvType kv, int64_t context) {
  using Clock = std::chrono::steady_clock;
  const std::vector<int32_t> tokens = trial_tokens(model.config().vocab_size);
  context = std::min(context, kTokens);
  Decoder decoder(model, backend, {context, kv});
  const std::atomic<bool> abort{false};
  Answers answers;
  answers.decode_ms = std::numeric_limits<double>::infinity();
  int64_t first_kept =
      0;  // of the call: a prompt's answers have nothing to say that its last don't
  const auto keep = [&](int64_t first, Matrix logits) {
    for (int64_t row = std::max<int64_t>(0, first_kept - first); row < logits.rows; ++row) {
      answers.logits.emplace_back(logits.row(row), logits.row(row) + logits.cols);
    }
  };
  std::span<const int32_t> left(tokens);
  left = left.first(static_cast<size_t>(context));
  const auto call = [&](int64_t count) {
    const auto start = Clock::now();
    const auto now = left.first(std::min(left.size(), static_cast<size_t>(count)));
    first_kept = std::max<int64_t>(0, std::ssize(now) - kFewTokens);
    decoder.forward(now, LogitRows::kAll, abort, keep);
    left = left.subspan(now.size());
    return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
  };
  answers.prompt_ms = call(kPromptTokens);
  if (!left.empty()) call(kFewTokens);
  while (!left.empty()) {
    answers.decode_ms = std::min(answers.decode_ms, call(1));
  }
  const int64_t last = decoder.position() - 1;
  decoder.rewind(last);
  answers.likeliest = decoder.next({&tokens[static_cast<size_t>(last)], 1}, abort);
  return answers;
}

std::unique_ptr<Backend> otherwise_rounding(Backend& inner) {
  return std::make_unique<OtherRoundings>(inner);
}

std::string disagreement(const Answers& reference, const Answers& otherwise_rounded,
                         const Answers& given) {
  const Distances own = distances(reference, given);
  const Distances rounding = distances(reference, otherwise_rounded);
  const auto refuse = [](const char* what, double apart, double explained) {
    return std::string(what) + " differ from the processor's by " + std::to_string(apart) +
           ", where roundings come to " + std::to_string(explained);
  };
  if (!(own.median <= kMost * rounding.median)) {
    return refuse("its answers", own.median, rounding.median);
  }
  if (!(own.worst <= kMost * rounding.worst)) {
    return refuse("some of its answers", own.worst, rounding.worst);
  }
  if (!(own.one_logit <= kMost * rounding.one_logit)) {
    return refuse("single logits", own.one_logit, rounding.one_logit);
  }
  return finds_largest(given) ? "" : "it does not find the largest of its own logits";
}

}  // namespace subbit
