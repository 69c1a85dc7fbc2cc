// Scores token windows under a model, alone or against a teacher: the numbers every decision about
// quality is made on.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "decoding/decoder.h"

namespace subbit {

/// Natural-log probability of each next token: log p(tokens[i + 1] | tokens[0..i]). Rewinds the
/// decoder first. [tokens - 1].
std::vector<float> next_token_logprobs(Decoder& decoder, std::span<const int32_t> tokens,
                                       const std::atomic<bool>& abort, ThreadPool& pool);

/// What comparing two rows of logits yields, in nats.
struct Divergence {
  double kl = 0;  // KL(teacher || model)
  bool same_top1 = false;
};

struct WindowScore {
  std::vector<float> logprobs;          // of the model
  std::vector<float> teacher_logprobs;  // empty without a teacher
  std::vector<Divergence> divergences;  // likewise; over the same predictions
};

/// Scores one window under `model` and, if not null, `teacher`; holds kLogitRows rows of each.
WindowScore score_window(Decoder& model, Decoder* teacher, std::span<const int32_t> tokens,
                         const std::atomic<bool>& abort, ThreadPool& pool);

}  // namespace subbit
