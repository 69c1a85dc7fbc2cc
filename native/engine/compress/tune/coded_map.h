// A coded linear that can be tuned: y = diag(s_post) Q diag(s_pre) x + bias, the activations
// rounded to codes on the way as the runtime does. The terms' sum Q is held as bfloat16, exact
// wherever a single term covers a column (integers times a power of two).
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/half.h"
#include "base/thread_pool.h"
#include "compress/tune/code_latents.h"
#include "compress/tune/tuned_map.h"
#include "compress/tune/tuned_tables.h"

namespace subbit {

/// Memory: CodeLatents' for every term, and 10 bytes a weight.
class CodedMap final : public TunedMap {
 public:
  /// `linear` is coded. Its terms' entries are those of `tables`, whose gradients grow by this
  /// linear's share, and which must take their step before this map takes its own.
  CodedMap(const FittedLinear& linear, TunedTables& tables, const TunedMapOptions& options,
           ThreadPool& pool);

  Shape shape() const override { return shape_; }
  /// The input as bfloat16.
  int64_t saved_per_token() const override { return (shape_.cols + 1) / 2; }
  void forward(ConstMatrix x, Matrix y, std::span<float> saved) override;
  void backward(ConstMatrix x, ConstMatrix grad_y, std::span<const float> saved,
                Matrix grad_x) override;
  std::span<const float> bias() const override { return bias_.values(); }
  std::span<float> bias_gradient() override { return bias_.gradient(); }

  double finish_gradients() override;
  void step(const AdamStep& latents, const AdamStep& scales) override;
  void drop_gradients() override;
  void list_state(const std::string& name, StateArrays& state) override;
  void export_to(FittedLinear& linear) const override;

 private:
  MatrixView<BFloat16> saved_in(std::span<const float> saved, int64_t tokens) const;
  float gain(size_t term) const;
  void sum_terms();

  Shape shape_;
  ThreadPool& pool_;
  CodeRounding rounding_;
  TunedTables& tables_;
  std::vector<CodeLatents> terms_;
  TunedVector gains_;  // of the terms; empty unless some cover the same columns
  TunedVector post_;
  TunedVector pre_;  // empty where it is folded away
  TunedVector bias_;
  Buffer<BFloat16> q_;      // [rows, cols]
  Buffer<float> q_floats_;  // while it is summed
  Buffer<float> gradient_;  // d loss / d q, its rows divided by s_post
  bool gathered_ = false;   // whether gradient_ holds anything
  Buffer<float> scaled_input_;
  Buffer<BFloat16> grad_y_;
  Buffer<BFloat16> scaled_grad_y_;
};

}  // namespace subbit
