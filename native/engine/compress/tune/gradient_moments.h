// What each output of each linear is worth to the model: the mean square of the loss's gradient
// there, by one backward pass of the uncompressed model over some of the text.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "engine.h"
#include "models/model.h"

namespace subbit {

/// Mean over tokens of (d loss / d y_i)^2, per output row, by the linear's name. The loss is the
/// cross entropy of the text's next token (the empirical Fisher information, as in NanoQuant). Of a
/// linear that adds to the residual stream it is the moment of the stream behind it.
using GradientMoments = std::map<std::string, std::vector<float>, std::less<>>;

/// Of a window no more are read: a vocabulary of 128k then takes 131 MB of logits, twice.
constexpr int64_t kGradientTokens = 256;

struct GradientRequest {
  const Manifest* manifest = nullptr;
  Model* model = nullptr;
  std::span<const std::vector<int32_t>> windows;
  int64_t most_windows = 32;  // evenly spaced among them
};

/// Of the first kGradientTokens of each window. Throws kAborted. Memory: every
/// weight as a float, and one such window's tape and logits.
GradientMoments measure_gradients(const GradientRequest& request, ThreadPool& pool,
                                  JobControl& control);

}  // namespace subbit
