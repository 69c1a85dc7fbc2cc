// Turns logits into one token id: penalties, then temperature, top-k, top-p, min-p, then a draw.
// Deterministic for a seed; the same on every machine up to the logits themselves.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "base/rng.h"

namespace subbit {

struct SamplerOptions {
  float temperature = 0.0f;  // 0: greedy
  int32_t top_k = 0;         // 0: off
  float top_p = 1.0f;        // 1: off
  float min_p = 0.0f;        // 0: off
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  std::vector<std::pair<int32_t, float>> logit_bias;
  uint64_t seed = 0;
};

class Sampler {
 public:
  explicit Sampler(SamplerOptions options);
  /// Tokens the penalties see: the prompt, then each token as it is chosen.
  void observe(std::span<const int32_t> tokens);
  /// Whether it does no more than take the first of the largest logits, as Decoder::next() does.
  bool is_argmax() const { return !(options_.temperature > 0) && !adjusts_; }
  /// Picks a token. `logits` [vocab] is scratch: it comes back changed. Throws kNonFinite.
  int32_t sample(std::span<float> logits);

 private:
  class Candidates;

  /// Biases and penalties.
  void adjust(std::span<float> logits) const;
  int32_t draw(std::span<const float> logits, float largest);

  SamplerOptions options_;
  bool adjusts_ = false;  // whether any bias or penalty is set
  Rng rng_;
  std::vector<std::pair<int32_t, int32_t>> counts_;  // token, times seen; sorted by token
  std::vector<int32_t> order_;                       // scratch
};

}  // namespace subbit
