// The calibration text on its way through the model, one decoder block at a time, and what it says
// about each linear's inputs. Runs the architecture's own forward pass through a back end that
// looks on; there is no second forward pass.
//
// Two streams: the *compressed* model's hidden states, where a block is observed on what the
// compressed blocks before it really yield, then replaced, then passed; and, where blocks are
// trained, the uncompressed model's, the targets.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/buffer.h"
#include "base/thread_pool.h"
#include "compress/tune/hidden_states.h"
#include "engine.h"
#include "models/model.h"

namespace subbit {

/// Mean of x_j^2 over all calibration tokens, per input column, by the linear's name.
using InputMoments = std::map<std::string, std::vector<float>, std::less<>>;

/// Mean of x_j x_k, [cols, cols], by the linear's name.
using InputCovariances = std::map<std::string, Buffer<float>, std::less<>>;

/// What a block's inputs were like.
struct InputObservations {
  InputMoments moments;
  InputCovariances covariances;
};

/// Whether the uncompressed model's states are kept beside the compressed one's.
enum class TeacherStream { kNone, kKept };

struct CalibrationRequest {
  Model* model = nullptr;             // holds the original; blocks are replaced as they are done
  const Weight* embedding = nullptr;  // what the compressed model will embed with
  std::span<const std::vector<int32_t>> windows;
  TeacherStream teacher = TeacherStream::kNone;
};

/// Memory: a HiddenStates for each stream, and 4 bytes * window * (2 hidden_size + 1 + wide + mixed
/// + 2 kv_heads * head_dim), `window` being the longest window, wide and mixed as in
/// ActivationWidths. For 64 windows of 1,024 tokens of a 7B model: 1.1 GB for both streams.
class CalibrationStream {
 public:
  /// Embeds the windows. The model is prepared for their length; it and the back end must outlive
  /// this. Throws kInvalidOption on a window that is empty, too long, or holds an id outside the
  /// vocabulary.
  CalibrationStream(const CalibrationRequest& request, Backend& backend, ThreadPool& pool);

  int64_t tokens() const { return compressed_.tokens(); }
  int64_t longest_window() const { return compressed_.longest(); }
  const HiddenStates& compressed() const { return compressed_; }
  /// Only where kept.
  const HiddenStates& teacher() const;

  /// Runs block `index` as the model holds it on the compressed stream and gives the moments of its
  /// linears' inputs, and the covariances of those named. The stream stays where it was. Throws
  /// kAborted, kNonFinite. Memory: a covariance for each name.
  InputObservations observe(int64_t index, const std::set<std::string>& covariances,
                            JobControl& control);
  InputMoments observe(int64_t index, JobControl& control) {
    return observe(index, {}, control).moments;
  }
  /// Moves the teacher's stream, where kept, behind block `index`, which the model must still hold
  /// as the original. Throws kAborted.
  void advance_teacher(int64_t index, JobControl& control);
  /// Moves the compressed stream behind block `index` as the model holds it. Throws kAborted.
  void advance(int64_t index, JobControl& control);

 private:
  Activations activations_for(int64_t tokens);
  /// Block `index` of the window's rows in `states`; the result lies in the activations' h.
  Activations run(int64_t index, const HiddenStates& states, size_t window, Backend& backend);
  void report(int64_t index, size_t window, JobControl& control) const;

  Model& model_;
  Backend& backend_;
  ThreadPool& pool_;
  HiddenStates compressed_;
  std::optional<HiddenStates> teacher_;
  Buffer<float> scratch_;  // one window's hidden, normed with row scales, wide, mixed
  Buffer<float> keys_;
  Buffer<float> values_;
};

}  // namespace subbit
