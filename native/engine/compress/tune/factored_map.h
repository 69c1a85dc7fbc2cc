// A factored linear that can be tuned: y = diag(s_post) U V diag(s_pre) x + bias, with the
// activations rounded to codes on the way as the runtime does (backwards, as if they were not).
#pragma once

#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/thread_pool.h"
#include "compress/tune/sign_latents.h"
#include "compress/tune/tuned_map.h"
#include "formats/signs/quantized_rows.h"

namespace subbit {

class FactoredMap final : public TunedMap {
 public:
  /// `linear` is factored; `start` as in SignLatents.
  FactoredMap(const FittedLinear& linear, float start, CodeRounding rounding, ThreadPool& pool);

  Shape shape() const override { return {u_.rows(), v_.cols()}; }
  int64_t saved_per_token() const override { return u_.cols(); }
  void forward(ConstMatrix x, Matrix y, std::span<float> saved) override;
  void backward(ConstMatrix x, ConstMatrix grad_y, std::span<const float> saved,
                Matrix grad_x) override;
  std::span<const float> bias() const override { return bias_.values(); }
  std::span<float> bias_gradient() override { return bias_.gradient(); }

  double finish_gradients() override;
  void step(const AdamStep& latents, const AdamStep& scales) override;
  void drop_gradients() override;
  void export_to(FittedLinear& linear) const override;

 private:
  SignScales u_scales() const { return {post_.values(), {}}; }
  SignScales v_scales() const {
    return {{}, pre_.empty() ? std::span<const float>() : std::span<const float>(pre_.values())};
  }
  Matrix grow(Buffer<float>& buffer, int64_t rows, int64_t cols);

  ThreadPool& pool_;
  CodeRounding rounding_;
  SignLatents u_;
  SignLatents v_;
  TunedVector post_;
  TunedVector pre_;  // empty where it is folded away
  TunedVector bias_;
  QuantizedRows codes_;
  Buffer<float> input_;
  Buffer<float> grad_mid_;
};

}  // namespace subbit
