// What an error in each linear costs the model, measured: one linear at a time is reduced to its
// signs, and the original with it is compared with the original as it is.
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

/// KL divergence, in nats a token, per relative squared output error, by the linear's name.
using Sensitivities = std::map<std::string, double, std::less<>>;

/// Of a window no more are read.
constexpr int64_t kSensitivityTokens = 256;

struct SensitivityRequest {
  const Manifest* manifest = nullptr;
  Model* model = nullptr;  // the original; as it was when this returns or throws
  std::span<const std::vector<int32_t>> windows;
  int64_t most_windows = 4;  // evenly spaced among them
};

/// Every linear of the body. The error that is made is that of the nearest signs with a scale a row
/// and a column, weighted by the mean squares of its inputs: a third of the output's square, which
/// is about what less than a bit a weight leaves too, so that the divergence is measured where it
/// will be and not at an infinitesimal. Divergences count the 32 likeliest tokens one by one, the
/// rest as one. Throws kAborted, kNonFinite.
/// Memory: the windows' hidden states, one window's activations and logits, and the widest linear
/// twice as floats. Operations: half a forward pass of the windows, and a head, for each linear.
Sensitivities measure_sensitivities(const SensitivityRequest& request, ThreadPool& pool,
                                    JobControl& control);

}  // namespace subbit
