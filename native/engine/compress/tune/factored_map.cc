// Two products forward, four backward. Scales live inside the sign matrices, so that the products
// see them for nothing and their gradients fall out of the matrices' own.
#include "compress/tune/factored_map.h"

#include <algorithm>
#include <cmath>
#include <variant>

#include "base/check.h"
#include "formats/signs/layout.h"
#include "linalg/gemm.h"

namespace subbit {
namespace {

/// values := the floats their codes stand for. (The integer kernels also drop low bits of chunks
/// far below a row's largest; that is left out.)
void round_to_codes(ConstMatrix values, QuantizedRows& codes, Matrix out, ThreadPool& pool) {
  quantize_rows(values, codes, pool);
  pool.parallel_for(values.rows, 16, [&](Range range) {
    for (int64_t t = range.begin; t < range.end; ++t) {
      for (int64_t chunk = 0; chunk < codes.chunks; ++chunk) {
        const float scale = std::ldexp(1.0f, codes.exponents[t * codes.chunks + chunk]);
        const int8_t* code = codes.codes.data() + (t * codes.chunks + chunk) * kChunk;
        const int64_t first = chunk * kChunk;
        const int64_t count = std::min(kChunk, values.cols - first);
        for (int64_t j = 0; j < count; ++j)
          out.at(t, first + j) = static_cast<float>(code[j]) * scale;
      }
    }
  });
}

}  // namespace

FactoredMap::FactoredMap(const FittedLinear& linear, float start, CodeRounding rounding,
                         ThreadPool& pool)
    : pool_(pool),
      rounding_(rounding),
      u_(std::get<FactoredFit>(linear.fit).u, start),
      v_(std::get<FactoredFit>(linear.fit).v, start),
      post_(std::get<FactoredFit>(linear.fit).s_post),
      bias_(linear.bias) {
  if (linear.pre_scale == PreScale::kOwn)
    pre_ = TunedVector(std::get<FactoredFit>(linear.fit).s_pre);
  u_.refresh(u_scales(), pool_);
  v_.refresh(v_scales(), pool_);
}

Matrix FactoredMap::grow(Buffer<float>& buffer, int64_t rows, int64_t cols) {
  if (buffer.size() < rows * cols) buffer = Buffer<float>(rows * cols);
  return {buffer.data(), rows, cols};
}

void FactoredMap::forward(ConstMatrix x, Matrix y, std::span<float> saved) {
  const Matrix mid(saved.data(), x.rows, u_.cols());
  CHECK(std::ssize(saved) == x.rows * u_.cols());
  ConstMatrix input = x;
  if (rounding_ == CodeRounding::kOn) {
    const Matrix rounded = grow(input_, x.rows, x.cols);
    round_to_codes(x, codes_, rounded, pool_);
    input = rounded;
  }
  gemm(input, {v_.scaled(), Transpose::kYes}, mid, Accumulate::kOverwrite, pool_);
  if (rounding_ == CodeRounding::kOn) round_to_codes(mid, codes_, mid, pool_);
  gemm(mid, {u_.scaled(), Transpose::kYes}, y, Accumulate::kOverwrite, pool_);
}

void FactoredMap::backward(ConstMatrix x, ConstMatrix grad_y, std::span<const float> saved,
                           Matrix grad_x) {
  const ConstMatrix mid(saved.data(), x.rows, u_.cols());
  const Matrix grad_mid = grow(grad_mid_, x.rows, u_.cols());
  gemm({grad_y, Transpose::kYes}, mid, u_.gradient(), Accumulate::kAdd, pool_);
  gemm(grad_y, u_.scaled(), grad_mid, Accumulate::kOverwrite, pool_);
  gemm({grad_mid, Transpose::kYes}, x, v_.gradient(), Accumulate::kAdd, pool_);
  gemm(grad_mid, v_.scaled(), grad_x, Accumulate::kOverwrite, pool_);
}

double FactoredMap::finish_gradients() {
  u_.add_scale_gradients(u_scales(), post_.gradient(), {}, pool_);
  if (!pre_.empty()) v_.add_scale_gradients(v_scales(), {}, pre_.gradient(), pool_);
  double squares = u_.gradient_squares(u_scales(), pool_) + v_.gradient_squares(v_scales(), pool_);
  for (const TunedVector* vector : {&post_, &pre_, &bias_}) squares += vector->gradient_squares();
  return squares;
}

void FactoredMap::step(const AdamStep& latents, const AdamStep& scales) {
  u_.step(u_scales(), latents, pool_);
  v_.step(v_scales(), latents, pool_);
  for (TunedVector* vector : {&post_, &pre_, &bias_}) vector->step(scales);
  u_.refresh(u_scales(), pool_);
  v_.refresh(v_scales(), pool_);
}

void FactoredMap::drop_gradients() {
  u_.drop_gradient();
  v_.drop_gradient();
  for (TunedVector* vector : {&post_, &pre_, &bias_}) vector->drop_gradient();
}

void FactoredMap::export_to(FittedLinear& linear) const {
  auto& fit = std::get<FactoredFit>(linear.fit);
  fit.u = u_.signs();
  fit.v = v_.signs();
  fit.s_post = post_.values();
  if (!pre_.empty()) fit.s_pre = pre_.values();
  linear.bias = bias_.values();
}

}  // namespace subbit
