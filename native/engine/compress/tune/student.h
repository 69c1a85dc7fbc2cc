// The compressed model while it is tuned: the architecture's own forward pass on a tape, with every
// linear of the body and every folded norm free to move, and a head that computes only the columns
// the loss asks for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/tape/tape_backend.h"
#include "base/buffer.h"
#include "base/thread_pool.h"
#include "compress/fit/fitted_block.h"
#include "compress/tune/distillation.h"
#include "compress/tune/tuned_end.h"
#include "compress/tune/tuned_map.h"
#include "compress/tune/tuned_tables.h"
#include "models/model.h"

namespace subbit {

/// What kind of parameter moves how far.
struct LearningRates {
  float latents = 0.0f;
  float scales = 0.0f;
  float ends = 0.0f;
};

/// Some rows of the head, as floats.
class HeadMap final : public LinearMap {
 public:
  /// Where there is an `end`, it is what the rows are of, and learns from those that are named: the
  /// drawn ones say little about themselves.
  HeadMap(const Weight& weight, ThreadPool& pool, TunedEnd* end = nullptr)
      : weight_(weight), pool_(pool), end_(end) {}
  /// The head from now on: these tokens' rows, in this order.
  void choose(const HeadColumns& columns);

  Shape shape() const override { return {rows_, weight_.shape().cols}; }
  void forward(ConstMatrix x, Matrix y, std::span<float> saved) override;
  void backward(ConstMatrix x, ConstMatrix grad_y, std::span<const float> saved,
                Matrix grad_x) override;

 private:
  const Weight& weight_;
  ThreadPool& pool_;
  TunedEnd* end_;
  int64_t rows_ = 0;
  Buffer<float> values_;
  std::vector<int32_t> named_;
  Buffer<float> gradient_;
};

struct StudentRequest {
  const Manifest* manifest = nullptr;
  /// The original, but its embedding and head are as they will be written: the student hears and
  /// speaks through them. Its norms are replaced.
  Model* model = nullptr;
  int64_t longest_window = 0;
  float latent_start = 0.0f;
  /// Those of embedding and head that move.
  std::span<const EndStart> ends;
};

/// One window and what the teacher says to it.
struct Lesson {
  std::span<const int32_t> window;
  const TeacherTargets* targets = nullptr;
  HeadColumns columns;
};

/// Memory: 18 bytes a sign, CodedMap's for a coded linear, TunedEnd's; one pass's tape
/// (tape_backend.h) and its mirror; a window of logits over its columns, three times.
class Student {
 public:
  /// Starts from `fitted`. All that the request names must outlive this.
  Student(const StudentRequest& request, FittedModel fitted, ThreadPool& pool);

  enum class Pass { kForward, kForwardAndBackward };
  /// How many of the first lessons go through the model side by side: products over many rows are
  /// faster, and a tape must not outgrow the model.
  size_t lessons_in_a_pass(std::span<const Lesson> lessons) const;
  /// Sum over the rows of one pass's windows of the divergence from the teacher. Backward, its
  /// gradient times `scale` is gathered for the next step.
  double run(std::span<const Lesson> lessons, Pass pass, float scale);

  /// The gathered gradients' norm; call once before step().
  double finish_gradients();
  /// `adam` without a rate.
  void step(const AdamStep& adam, const LearningRates& rates);
  /// Forgets the gathered gradients.
  void drop_gradients();
  /// The model as it now is.
  FittedModel fitted() const;
  /// What the next step depends on, between steps; and what to do once it has been read back.
  void list_state(StateArrays& state);
  void state_is_back() { put_norms(); }

 private:
  struct Norm {
    std::string name;
    TunedVector values;
    size_t block = 0;
    size_t index = 0;
  };
  void put_norms();
  double run_head(const Lesson& lesson, int64_t first_row, Pass pass, float scale);

  Model& model_;
  ThreadPool& pool_;
  FittedModel fitted_;  // as tuning began
  TunedTables tables_;
  std::vector<std::unique_ptr<TunedMap>> maps_;
  std::vector<Norm> norms_;
  std::vector<std::unique_ptr<TunedEnd>> ends_;
  std::unique_ptr<Backend> compute_;
  Buffer<float> storage_;
  Activations activations_;
  int64_t pass_rows_;
  std::unique_ptr<HeadMap> head_;
  std::unique_ptr<TapeBackend> tape_;
};

}  // namespace subbit
