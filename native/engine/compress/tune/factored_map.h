// A factored linear that can be tuned: y = diag(s_post) U V diag(s_pre) x + bias, with the
// activations rounded to codes on the way as the runtime does (backwards, as if they were not).
// Signs and what codes stand for are bfloat16 without loss, so forward every product is exact;
// backward the gradients of activations are rounded to it.
#pragma once

#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/thread_pool.h"
#include "compress/tune/sign_latents.h"
#include "compress/tune/tuned_map.h"

namespace subbit {

class FactoredMap final : public TunedMap {
 public:
  /// `linear` is factored; `start` as in SignLatents.
  FactoredMap(const FittedLinear& linear, float start, CodeRounding rounding, ThreadPool& pool);

  Shape shape() const override { return {u_.rows(), v_.cols()}; }
  /// Input and middle as bfloat16.
  int64_t saved_per_token() const override { return (u_.cols() + v_.cols() + 1) / 2; }
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
  struct Saved {
    MatrixView<BFloat16> input;  // as the first product sees it
    MatrixView<BFloat16> mid;
  };
  Saved saved_in(std::span<const float> saved, int64_t tokens) const;
  void narrow_activations(ConstMatrix values, MatrixView<BFloat16> out);

  ThreadPool& pool_;
  CodeRounding rounding_;
  SignLatents u_;
  SignLatents v_;
  TunedVector post_;
  TunedVector pre_;  // empty where it is folded away
  TunedVector bias_;
  Buffer<float> floats_;  // one product's result, or the scaled input
  Buffer<BFloat16> grad_y_;
  Buffer<BFloat16> scaled_grad_y_;
  Buffer<BFloat16> grad_mid_;
};

}  // namespace subbit
