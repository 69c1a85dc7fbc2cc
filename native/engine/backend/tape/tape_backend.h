// A back end that hands every call on, remembers it, and plays what it remembers backwards: the
// gradients of any model that runs, with no second forward pass written anywhere.
//
// A model's tensors are reused in place all the time, so a gradient belongs to a place, not to a
// value: beside the memory of the activations lies a mirror of it, and while the tape plays
// backwards the mirror holds the gradient of what the place held at that moment. Undoing an
// operation that overwrote its output therefore reads the output's mirror, clears it, and adds to
// the mirrors of the inputs. What an operation needs of its inputs it saves, since they will be
// overwritten.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "backend/tape/embedding_map.h"
#include "backend/tape/linear_map.h"
#include "base/buffer.h"
#include "base/thread_pool.h"

namespace subbit {

/// Memory beyond the mirror, per token of a Llama block of widths h (hidden), q (query and
/// key-value rows), m (intermediate): 4 bytes * (4 h + 2 q + 3 m + what the maps save).
class TapeBackend final : public Backend {
 public:
  /// `inner` computes; `activations` is the one allocation all tensors given to this lie in.
  /// Both, and the pool, must outlive it.
  TapeBackend(Backend& inner, std::span<float> activations, ThreadPool& pool);

  /// From now on the linear of this name is `map`. All others are constants: the gradient passes
  /// through their weights, which are held as floats from the first backward on.
  void set_map(const std::string& linear, LinearMap& map);
  /// From now on embed() looks up `map`, whatever table it is given.
  void set_embedding(EmbeddingMap& map) { embedding_ = &map; }
  /// The gradient of the norm whose weight is read from `weight` is added to `gradient`.
  void set_norm_gradient(const float* weight, std::span<float> gradient);
  void clear_norm_gradients() { norm_gradients_.clear(); }
  /// When the tape has played back to here, `look` gets the gradient of what the tensor holds now.
  void watch(const Tensor& tensor, std::function<void(ConstMatrix gradient)> look);

  /// From now on the rows that rope and attention see are sequences of these lengths, one after
  /// another, each from position 0. Empty: one sequence, however long.
  void set_sequences(std::vector<int64_t> lengths) { sequences_ = std::move(lengths); }

  /// The mirror of a tensor's data. Write the loss's gradient here, then play backwards.
  Matrix gradient(const Tensor& tensor);
  /// Undoes everything recorded, last first, and leaves the tape empty. In the mirror only the
  /// gradients of what was there before the recording began remain: none, if it began with embed.
  void play_backwards() { play_backwards_to({}); }
  /// The same down to a mark, back at which the recording goes on.
  struct Mark {
    size_t steps = 0;
    size_t block = 0;
    int64_t used = 0;
  };
  Mark mark() const { return {undo_.size(), block_, used_}; }
  void play_backwards_to(const Mark& mark);
  void clear_gradients();
  /// Forgets everything recorded since the mark.
  void forget_to(const Mark& mark);
  void clear() { forget_to({}); }

  void embed(const Weight& table, std::span<const int32_t> tokens, Tensor h) override;
  void rms_norm(Tensor x, std::span<const float> weight, float eps, Tensor out) override;
  void linear(const Linear& linear, Tensor x, Tensor y) override;
  void linear_add(const Linear& linear, Tensor x, Tensor y) override;
  /// Sequences begin at position 0: what came before them could not be undone. Attention is the one
  /// operation not handed on, and `kv` stays as it is: of whole sequences it is matrix products.
  void rope(const RopeTable& table, int64_t first_position, int64_t heads, Tensor x) override;
  void attention(const AttentionShape& shape, Tensor q, Tensor k, Tensor v, const KvLayer& kv,
                 int64_t first_position, Tensor out) override;
  void swiglu(Tensor gate, Tensor up, Tensor out) override;
  /// Leaves no gradient: handed on.
  void argmax(Tensor logits, int32_t& index) override { inner_.argmax(logits, index); }
  void finish() override;

 private:
  /// A saved copy: rows of the tape's own memory, which is reused from pass to pass.
  struct Saved {
    size_t block = 0;
    int64_t offset = 0;
    int64_t rows = 0;
    int64_t cols = 0;
  };
  Saved reserve(int64_t rows, int64_t cols);
  Saved save(ConstMatrix values);
  Matrix at(const Saved& saved);
  /// The gradient of `tensor`, moved to product_: its place is zero afterwards.
  Matrix take_gradient(const Tensor& tensor);
  std::vector<int64_t> sequences_of(const Tensor& tensor) const;
  float* mirror(const float* place);
  LinearMap& map_for(const Linear& linear);
  void apply(const Linear& linear, Tensor x, Tensor y, OutputMode mode);
  void add_output(ConstMatrix product, std::span<const float> bias, const float* row_scale,
                  const Tensor& y, OutputMode mode);
  Matrix scaled_gradient(const Tensor& y, const float* row_scale, OutputMode mode);
  void add_input_gradient(ConstMatrix grad, ConstMatrix values, const float* row_scale,
                          const Tensor& x);

  Backend& inner_;
  std::span<float> activations_;
  ThreadPool& pool_;
  Buffer<float> mirror_;
  std::map<std::string, LinearMap*, std::less<>> maps_;
  std::map<std::string, std::unique_ptr<LinearMap>, std::less<>> constants_;
  EmbeddingMap* embedding_ = nullptr;
  std::map<const float*, std::span<float>> norm_gradients_;
  std::vector<int64_t> sequences_;
  std::vector<std::function<void()>> undo_;
  std::vector<Buffer<float>> blocks_;
  size_t block_ = 0;  // being filled
  int64_t used_ = 0;  // of it
  Buffer<float> scratch_;
  Buffer<float> product_;
};

}  // namespace subbit
