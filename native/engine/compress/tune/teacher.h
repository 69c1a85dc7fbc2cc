// The uncompressed model as the student meets it: what it would say next, and text it makes up.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "base/buffer.h"
#include "base/rng.h"
#include "base/thread_pool.h"
#include "compress/tune/distillation.h"
#include "decoding/decoder.h"
#include "models/model.h"

namespace subbit {

/// A window of tokens and, once the teacher has read it, its targets.
struct TrainingWindow {
  std::vector<int32_t> tokens;
  TeacherTargets targets;
};

/// Windows of the teacher's own making, with their targets.
struct TeacherText {
  int64_t windows = 0;
  int64_t tokens = 0;  // of a window, the start token included
  int32_t start = 0;
  uint64_t seed = 0;
};

/// How many windows of so many tokens are written at a time: as many as half a GiB holds the
/// float32 keys, values and logits of, at least one and at most 128.
int64_t sequences_in_step(const ModelConfig& config, int64_t tokens);

/// Rows of logits at once: a head's weights are laid out anew for every product, whose cost only
/// many rows make up for.
constexpr int64_t kLogitRows = 128;

class Teacher {
 public:
  /// `model` must outlive this and is prepared for windows of `longest` tokens.
  Teacher(Model& model, int64_t longest, ThreadPool& pool);

  TeacherTargets targets(std::span<const int32_t> window);
  /// Samples windows at temperature 1, many at a time, with their targets. `step` is told after
  /// every position how many tokens there are so far; it may throw.
  /// Memory: that of sequences_in_step().
  std::vector<TrainingWindow> write(const TeacherText& text,
                                    const std::function<void(int64_t tokens)>& step);

 private:
  std::vector<TrainingWindow> write_batch(std::span<Rng> rngs, const TeacherText& text,
                                          const std::function<void(int64_t tokens)>& step);

  Model& model_;
  int64_t longest_;
  ThreadPool& pool_;
  std::unique_ptr<Backend> backend_;
  Buffer<float> storage_;
  Activations activations_;
  Buffer<float> keys_;
  Buffer<float> values_;
};

}  // namespace subbit
