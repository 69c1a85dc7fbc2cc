// The calibration text on its way through the model, one decoder block at a time, and what it says
// about each linear's inputs. Runs the architecture's own forward pass through a back end that
// looks on; there is no second forward pass.
//
// The stream carries the *compressed* model's hidden states: a block is observed on what the
// compressed blocks before it really yield, then replaced, then passed. The next issue's tuning
// keeps a second stream of the uncompressed model's states beside this one, as its targets.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/buffer.h"
#include "engine.h"
#include "models/model.h"

namespace subbit {

/// Mean of x_j^2 over all calibration tokens, per input column, by the linear's name.
using InputMoments = std::map<std::string, std::vector<float>, std::less<>>;

/// Hidden states of all windows between two blocks.
/// Memory: 4 bytes * (tokens * hidden_size + window * (2 hidden_size + 1 + wide + mixed
/// + 2 kv_heads * head_dim)), `window` being the longest window, wide and mixed as in
/// ActivationWidths.
class CalibrationStream {
 public:
  /// Embeds the windows. The model is prepared for their length, and must outlive this. Throws
  /// kInvalidOption on a window that is empty, too long, or holds an id outside the vocabulary.
  CalibrationStream(Model& model, Backend& backend, std::span<const std::vector<int32_t>> windows);

  int64_t tokens() const { return hidden_.size() / hidden_size_; }

  /// Runs block `index` as the model now holds it and gives the moments of its linears' inputs.
  /// The stream stays where it was. Throws kAborted, kNonFinite.
  InputMoments observe(int64_t index, JobControl& control);
  /// Moves the stream behind block `index` as the model now holds it. Throws kAborted.
  void advance(int64_t index, JobControl& control);

 private:
  struct Window {
    int64_t first = 0;  // row of hidden_
    int64_t tokens = 0;
  };
  Activations activations_for(const Window& window, float* hidden);
  void run(int64_t index, const Window& window, Backend& backend, float* hidden);
  void report(int64_t index, size_t window, JobControl& control) const;

  Model& model_;
  Backend& backend_;
  int64_t hidden_size_;
  std::vector<Window> windows_;
  int64_t longest_ = 0;
  Buffer<float> hidden_;   // [tokens, hidden_size]
  Buffer<float> scratch_;  // one window's hidden, normed with row scales, wide, mixed
  Buffer<float> keys_;
  Buffer<float> values_;
};

}  // namespace subbit
