// Sampling. Ties go to the lower token id, so that a result never depends on a sort's whims. Passes
// over the vocabulary are loops that vectorize: beside a small model they are what takes time.
#include "decoding/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "base/error.h"
#include "base/wide_loop.h"
#include "linalg/exponential.h"
#include "linalg/largest.h"

namespace subbit {
namespace {

constexpr size_t kLanes = 16;  // of a pass: a fixed number, so that a sum is the same everywhere

/// The likelihood of a logit over that of the largest.
inline float weight_of(float logit, float largest, float temperature) {
  return exponential((logit - largest) / temperature);
}

double sum_of_weights(std::span<const float> logits, float largest, float temperature) {
  float sums[kLanes] = {};
  run_wide([&] {
    size_t i = 0;
    for (; i + kLanes <= logits.size(); i += kLanes)
      for (size_t lane = 0; lane < kLanes; ++lane)
        sums[lane] += weight_of(logits[i + lane], largest, temperature);
    for (; i < logits.size(); ++i) sums[0] += weight_of(logits[i], largest, temperature);
  });
  double sum = 0;
  for (const float lane : sums) sum += lane;
  return sum;
}

}  // namespace

/// Tokens from the likeliest down, found a band of logits at a time: a draw rarely looks beyond the
/// first, and to sort a whole vocabulary takes longer than a small model does.
class Sampler::Candidates {
 public:
  Candidates(std::span<const float> logits, float largest, const SamplerOptions& options,
             std::vector<int32_t>& order)
      : logits_(logits),
        largest_(largest),
        temperature_(options.temperature),
        most_(options.top_k > 0 ? static_cast<size_t>(options.top_k) : logits.size()),
        order_(order) {
    order_.clear();
  }

  /// Whether there is an i-th, counted from zero.
  bool has(size_t i) {
    if (i >= most_) return false;
    while (order_.size() <= i && floor_ > kNothing) add_band();
    return i < order_.size();
  }
  /// Of one that there is.
  int32_t token(size_t i) const { return order_[i]; }
  float weight(size_t i) const {
    return weight_of(logits_[static_cast<size_t>(order_[i])], largest_, temperature_);
  }
  /// Of all of them.
  double total() {
    if (most_ >= logits_.size()) return sum_of_weights(logits_, largest_, temperature_);
    double sum = 0;
    for (size_t i = 0; has(i); ++i) sum += weight(i);
    return sum;
  }

 private:
  static constexpr float kNothing = -std::numeric_limits<float>::infinity();

  void add_band() {
    const float ceiling = floor_;
    // At first what is at least e^-6 as likely as the likeliest; at last whatever is left.
    width_ = width_ == 0 ? 6.0f * temperature_ : 2.0f * width_;
    floor_ = width_ > 100.0f * temperature_ ? kNothing : largest_ - width_;
    const size_t before = order_.size();
    const auto inside = [&](float logit) { return logit >= floor_ && logit < ceiling; };
    for (size_t first = 0; first < logits_.size(); first += kLanes) {
      const auto lanes = logits_.subspan(first, std::min(kLanes, logits_.size() - first));
      int any = 0;
      for (const float logit : lanes) any |= inside(logit) ? 1 : 0;
      if (any == 0) continue;
      for (size_t lane = 0; lane < lanes.size(); ++lane)
        if (inside(lanes[lane])) order_.push_back(static_cast<int32_t>(first + lane));
    }
    std::sort(order_.begin() + static_cast<std::ptrdiff_t>(before), order_.end(),
              [&](int32_t a, int32_t b) {
                const float x = logits_[static_cast<size_t>(a)];
                const float y = logits_[static_cast<size_t>(b)];
                return x != y ? x > y : a < b;
              });
  }

  std::span<const float> logits_;
  float largest_;
  float temperature_;
  size_t most_;
  std::vector<int32_t>& order_;
  float floor_ = std::numeric_limits<float>::infinity();  // all at or above it are in order_
  float width_ = 0;
};

Sampler::Sampler(SamplerOptions options) : options_(std::move(options)), rng_(options_.seed) {
  adjusts_ = !options_.logit_bias.empty() || options_.repetition_penalty != 1.0f ||
             options_.presence_penalty != 0.0f || options_.frequency_penalty != 0.0f;
}

void Sampler::observe(std::span<const int32_t> tokens) {
  if (!adjusts_) return;
  for (const int32_t token : tokens) {
    const auto at = std::lower_bound(counts_.begin(), counts_.end(), std::pair{token, 0});
    if (at != counts_.end() && at->first == token) {
      ++at->second;
    } else {
      counts_.insert(at, {token, 1});
    }
  }
}

void Sampler::adjust(std::span<float> logits) const {
  const auto vocab = static_cast<int32_t>(logits.size());
  for (const auto& [token, bias] : options_.logit_bias) {
    if (token >= 0 && token < vocab) logits[static_cast<size_t>(token)] += bias;
  }
  for (const auto& [token, count] : counts_) {
    if (token >= vocab) continue;
    float& logit = logits[static_cast<size_t>(token)];
    // Keskar et al. 2019 (CTRL): divide what is positive, multiply what is negative.
    logit = logit > 0 ? logit / options_.repetition_penalty : logit * options_.repetition_penalty;
    logit -= options_.presence_penalty;
    logit -= options_.frequency_penalty * static_cast<float>(count);
  }
}

int32_t Sampler::sample(std::span<float> logits) {
  CHECK(!logits.empty());
  Largest found = find_largest(logits);
  const bool given = found.finite;
  if (given && adjusts_) {
    adjust(logits);
    found = find_largest(logits);
  }
  // What a penalty has made minus infinite is only out of the question.
  if (!given || !std::isfinite(found.value))
    throw Error(ErrorCode::kNonFinite, "a logit is not a finite number");
  if (options_.temperature > 0) return draw(logits, found.value);
  return static_cast<int32_t>(std::find(logits.begin(), logits.end(), found.value) -
                              logits.begin());
}

int32_t Sampler::draw(std::span<const float> logits, float largest) {
  Candidates candidates(logits, largest, options_, order_);
  const double total = candidates.total();
  // Top-p keeps the shortest prefix that reaches the mass, min-p those within a fraction of the
  // likeliest. The likeliest always stays.
  double mass = total;
  size_t kept = std::numeric_limits<size_t>::max();
  if (options_.top_p < 1 || options_.min_p > 0) {
    mass = 1;  // the weight of the likeliest
    kept = 1;
    while (mass < options_.top_p * total && candidates.has(kept)) {
      const float weight = candidates.weight(kept);
      if (weight < options_.min_p) break;
      mass += weight;
      ++kept;
    }
  }
  double left = rng_.uniform() * mass;
  size_t at = 0;
  CHECK(candidates.has(at));
  for (;; ++at) {
    left -= candidates.weight(at);
    if (left < 0 || at + 1 >= kept || !candidates.has(at + 1)) return candidates.token(at);
  }
}

}  // namespace subbit
