// What a model answers to a few tokens, and whether two back ends' answers are the same but for
// roundings. How much roundings may change is not a constant: it is measured of the model at hand.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "models/model.h"

namespace subbit {

struct Answers {
  std::vector<std::vector<float>> logits;  // a row for each answer
  double prompt_ms = 0;
  double decode_ms = 0;    // of the quickest token
  int32_t likeliest = -1;  // after the last token, as the back end itself finds it
};

/// A prompt in one call, a few tokens in another, then tokens one by one, so that kernels for every
/// size of call run. `context` bounds them all.
Answers answer(Model& model, Backend& backend, KvType kv, int64_t context);

/// `inner`, with every linear's input moved at random by up to half a step of the eight-bit codes:
/// its answers are what a device's look like of which all roundings fell otherwise.
std::unique_ptr<Backend> otherwise_rounding(Backend& inner);

/// Empty where `given` is `reference` but for roundings; else what is wrong with it, in words.
std::string disagreement(const Answers& reference, const Answers& otherwise_rounded,
                         const Answers& given);

}  // namespace subbit
