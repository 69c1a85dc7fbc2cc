// Sampling. Ties go to the lower token id, so that a result never depends on a sort's whims.
#include "decoding/sampler.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace subbit {
namespace {

int32_t argmax(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace

Sampler::Sampler(SamplerOptions options) : options_(std::move(options)), rng_(options_.seed) {}

void Sampler::observe(std::span<const int32_t> tokens) {
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
  for (const float logit : logits) {
    if (std::isfinite(logit)) continue;
    throw Error(ErrorCode::kNonFinite, "a logit is not a finite number");
  }
  adjust(logits);
  if (options_.temperature <= 0) return argmax(logits);
  keep_candidates(logits);
  return draw(logits);
}

void Sampler::keep_candidates(std::span<const float> logits) {
  order_.resize(logits.size());
  for (size_t i = 0; i < order_.size(); ++i) order_[i] = static_cast<int32_t>(i);
  const auto likelier = [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)];
    const float y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  };
  const bool all = options_.top_k <= 0 || options_.top_k >= static_cast<int32_t>(order_.size());
  if (all) {
    std::sort(order_.begin(), order_.end(), likelier);
    return;
  }
  std::partial_sort(order_.begin(), order_.begin() + options_.top_k, order_.end(), likelier);
  order_.resize(static_cast<size_t>(options_.top_k));
}

int32_t Sampler::draw(std::span<const float> logits) {
  const double temperature = options_.temperature;
  const double largest = logits[static_cast<size_t>(order_[0])];
  std::vector<double> weights(order_.size());
  double total = 0;
  for (size_t i = 0; i < order_.size(); ++i) {
    weights[i] = std::exp((logits[static_cast<size_t>(order_[i])] - largest) / temperature);
    total += weights[i];
  }
  // The candidates are in falling order: top-p keeps the shortest prefix that reaches the mass,
  // min-p those within a fraction of the likeliest. The likeliest always stays.
  size_t kept = 1;
  double mass = weights[0];
  while (kept < weights.size() && mass < options_.top_p * total &&
         weights[kept] >= options_.min_p * weights[0]) {
    mass += weights[kept++];
  }
  double left = rng_.uniform() * mass;
  for (size_t i = 0; i + 1 < kept; ++i) {
    left -= weights[i];
    if (left < 0) return order_[i];
  }
  return order_[kept - 1];
}

}  // namespace subbit
