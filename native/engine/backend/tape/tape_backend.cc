// Recording, saved copies, and the linear layer, whose row scale is a value like any other: with
// y = s W x + b, the map sees s * dy, and ds = (W^T dy) . x.
#include "backend/tape/tape_backend.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "backend/tape/tape_operations.h"
#include "base/check.h"
#include "linalg/gemm.h"

namespace subbit {
namespace {

constexpr int64_t kBlockFloats = int64_t{1} << 20;
constexpr int64_t kRowsPerTask = 16;

/// A weight that stays as it is.
class ConstantMap final : public LinearMap {
 public:
  ConstantMap(const Linear& linear, ThreadPool& pool)
      : shape_(linear.shape), values_(linear.shape.count()), pool_(pool) {
    Matrix rest(values_.data(), shape_.rows, shape_.cols);
    for (const Linear::Part& part : linear.parts) {
      const int64_t rows = part.weight->shape().rows;
      part.weight->unpack_rows(0, rest.rows_from(0, rows));
      const std::span<const float> own = part.weight->bias();
      for (int64_t i = 0; i < rows; ++i) {
        const auto at = static_cast<size_t>(i);
        bias_.push_back((part.bias.empty() ? 0.0f : part.bias[at]) +
                        (own.empty() ? 0.0f : own[at]));
      }
      rest = rest.rows_from(rows, rest.rows - rows);
    }
    if (std::all_of(bias_.begin(), bias_.end(), [](float b) { return b == 0.0f; })) bias_.clear();
  }
  Shape shape() const override { return shape_; }
  std::span<const float> bias() const override { return bias_; }
  void forward(ConstMatrix x, Matrix y, std::span<float>) override {
    gemm(x, {matrix(), Transpose::kYes}, y, Accumulate::kOverwrite, pool_);
  }
  void backward(ConstMatrix, ConstMatrix grad_y, std::span<const float>, Matrix grad_x) override {
    gemm(grad_y, matrix(), grad_x, Accumulate::kOverwrite, pool_);
  }

 private:
  ConstMatrix matrix() const { return {values_.data(), shape_.rows, shape_.cols}; }

  Shape shape_;
  Buffer<float> values_;
  std::vector<float> bias_;
  ThreadPool& pool_;
};

void clear_rows(Matrix m) {
  for (int64_t t = 0; t < m.rows; ++t) std::fill_n(m.row(t), m.cols, 0.0f);
}

/// `out` = row_scale * in.
void scale_rows(ConstMatrix in, const float* row_scale, Matrix out, ThreadPool& pool) {
  pool.parallel_for(in.rows, kRowsPerTask, [&](Range range) {
    for (int64_t t = range.begin; t < range.end; ++t) {
      const float scale = row_scale == nullptr ? 1.0f : row_scale[t];
      for (int64_t i = 0; i < in.cols; ++i) out.at(t, i) = scale * in.at(t, i);
    }
  });
}

}  // namespace

TapeBackend::TapeBackend(Backend& inner, std::span<float> activations, ThreadPool& pool)
    : inner_(inner),
      activations_(activations),
      pool_(pool),
      mirror_(std::ssize(activations), 0.0f) {}

void TapeBackend::set_map(const std::string& linear, LinearMap& map) { maps_[linear] = &map; }

void TapeBackend::set_norm_gradient(const float* weight, std::span<float> gradient) {
  norm_gradients_[weight] = gradient;
}

float* TapeBackend::mirror(const float* place) {
  const int64_t offset = place - activations_.data();
  CHECK(offset >= 0 && offset < std::ssize(activations_));
  return mirror_.data() + offset;
}

Matrix TapeBackend::gradient(const Tensor& tensor) {
  return {mirror(tensor.data), tensor.rows, tensor.cols, tensor.stride};
}

TapeBackend::Saved TapeBackend::reserve(int64_t rows, int64_t cols) {
  const int64_t count = rows * cols;
  if (block_ < blocks_.size() && used_ + count > blocks_[block_].size()) {
    ++block_;
    used_ = 0;
  }
  if (block_ == blocks_.size()) blocks_.emplace_back(std::max(count, kBlockFloats));
  if (blocks_[block_].size() < count) blocks_[block_] = Buffer<float>(count);
  const Saved saved{block_, used_, rows, cols};
  used_ += count;
  return saved;
}

Matrix TapeBackend::at(const Saved& saved) {
  return {blocks_[saved.block].data() + saved.offset, saved.rows, saved.cols};
}

TapeBackend::Saved TapeBackend::save(ConstMatrix values) {
  const Saved saved = reserve(values.rows, values.cols);
  const Matrix copy = at(saved);
  for (int64_t t = 0; t < values.rows; ++t) std::copy_n(values.row(t), values.cols, copy.row(t));
  return saved;
}

void TapeBackend::clear() {
  undo_.clear();
  block_ = 0;
  used_ = 0;
}

void TapeBackend::play_backwards() {
  for (auto step = undo_.rbegin(); step != undo_.rend(); ++step) (*step)();
  clear();
}

void TapeBackend::clear_gradients() { std::fill_n(mirror_.data(), mirror_.size(), 0.0f); }

LinearMap& TapeBackend::map_for(const Linear& linear) {
  const auto found = maps_.find(linear.name);
  if (found != maps_.end()) return *found->second;
  std::unique_ptr<LinearMap>& constant = constants_[linear.name];
  if (constant == nullptr) constant = std::make_unique<ConstantMap>(linear, pool_);
  return *constant;
}

void TapeBackend::embed(const Weight& table, std::span<const int32_t> tokens, Tensor h) {
  inner_.embed(table, tokens, h);
  undo_.push_back([this, h] { clear_rows(gradient(h)); });
}

void TapeBackend::rms_norm(Tensor x, std::span<const float> weight, float eps, Tensor out) {
  const Saved values = save(x.matrix());
  inner_.rms_norm(x, weight, eps, out);
  inner_.finish();
  const Saved scales = save({out.row_scale, 1, out.rows});
  undo_.push_back([this, x, weight, out, values, scales] {
    const auto rows = static_cast<size_t>(out.rows);
    float* grad_scales = mirror(out.row_scale);
    const auto norm = norm_gradients_.find(weight.data());
    rms_norm_backward(
        {at(values), {at(scales).data, rows}, weight, gradient(out), {grad_scales, rows}},
        gradient(x), norm == norm_gradients_.end() ? std::span<float>() : norm->second, pool_);
    clear_rows(gradient(out));
    std::fill_n(grad_scales, rows, 0.0f);
  });
}

void TapeBackend::apply(const Linear& linear, Tensor x, Tensor y, OutputMode mode) {
  inner_.finish();
  LinearMap& map = map_for(linear);
  CHECK(x.rows == y.rows && map.shape() == Shape({y.cols, x.cols}));
  const Saved input = save(x.matrix());
  const Saved kept = reserve(x.rows, map.saved_per_token());
  const auto kept_span = [this, kept] {
    return std::span<float>(at(kept).data, static_cast<size_t>(kept.rows * kept.cols));
  };
  const int64_t needed = std::max(x.rows * y.cols, y.rows * x.cols);
  if (product_.size() < needed) product_ = Buffer<float>(needed);
  const Matrix product(product_.data(), y.rows, y.cols);
  map.forward(at(input), product, kept_span());
  const std::span<const float> bias = map.bias();
  pool_.parallel_for(y.rows, kRowsPerTask, [&](Range range) {
    for (int64_t t = range.begin; t < range.end; ++t) {
      const float scale = x.row_scale == nullptr ? 1.0f : x.row_scale[t];
      float* out = y.data + t * y.stride;
      for (int64_t i = 0; i < y.cols; ++i) {
        const float value =
            scale * product.at(t, i) + (bias.empty() ? 0.0f : bias[static_cast<size_t>(i)]);
        out[i] = mode == OutputMode::kAdd ? out[i] + value : value;
      }
    }
  });
  Saved scales;
  if (x.row_scale != nullptr) scales = save({x.row_scale, 1, x.rows});
  undo_.push_back([this, &map, x, y, input, scales, kept_span, mode] {
    const Matrix grad_y = gradient(y);
    const std::span<float> grad_bias = map.bias_gradient();
    for (int64_t t = 0; t < (grad_bias.empty() ? 0 : y.rows); ++t)
      for (int64_t i = 0; i < y.cols; ++i) grad_bias[static_cast<size_t>(i)] += grad_y.at(t, i);

    const float* row_scale = x.row_scale == nullptr ? nullptr : at(scales).data;
    if (scratch_.size() < y.rows * y.cols) scratch_ = Buffer<float>(y.rows * y.cols);
    const Matrix scaled(scratch_.data(), y.rows, y.cols);
    scale_rows(grad_y, row_scale, scaled, pool_);
    const Matrix grad(product_.data(), x.rows, x.cols);
    map.backward(at(input), scaled, kept_span(), grad);
    if (mode == OutputMode::kOverwrite) clear_rows(grad_y);

    const Matrix grad_x = gradient(x);
    const Matrix values = at(input);
    float* grad_scale = x.row_scale == nullptr ? nullptr : mirror(x.row_scale);
    pool_.parallel_for(x.rows, kRowsPerTask, [&](Range range) {
      for (int64_t t = range.begin; t < range.end; ++t) {
        float along = 0.0f;
        for (int64_t j = 0; j < x.cols; ++j) {
          grad_x.at(t, j) += grad.at(t, j);
          along += grad.at(t, j) * values.at(t, j);
        }
        if (grad_scale != nullptr) grad_scale[t] += along / row_scale[t];
      }
    });
  });
}

void TapeBackend::linear(const Linear& linear, Tensor x, Tensor y) {
  apply(linear, x, y, OutputMode::kOverwrite);
}

void TapeBackend::linear_add(const Linear& linear, Tensor x, Tensor y) {
  apply(linear, x, y, OutputMode::kAdd);
}

void TapeBackend::rope(const RopeTable& table, int64_t first_position, int64_t heads, Tensor x) {
  CHECK(first_position == 0);
  inner_.rope(table, first_position, heads, x);
  undo_.push_back([this, &table, heads, x] { rope_backward(table, heads, gradient(x), pool_); });
}

void TapeBackend::attention(const AttentionShape& shape, Tensor q, Tensor k, Tensor v,
                            const KvLayer& kv, int64_t first_position, Tensor out) {
  CHECK(first_position == 0);
  inner_.finish();
  const Saved queries = save(q.matrix());
  const Saved keys = save(k.matrix());
  const Saved values = save(v.matrix());
  inner_.attention(shape, q, k, v, kv, first_position, out);
  undo_.push_back([this, shape, q, k, v, out, queries, keys, values] {
    const int64_t tokens = q.rows;
    // `out` may be where an input was: its gradient is moved out of the way first.
    if (product_.size() < tokens * out.cols) product_ = Buffer<float>(tokens * out.cols);
    const Matrix grad_out(product_.data(), tokens, out.cols);
    scale_rows(gradient(out), nullptr, grad_out, pool_);
    clear_rows(gradient(out));
    attention_backward({shape, at(queries), at(keys), at(values), grad_out}, gradient(q),
                       gradient(k), gradient(v), scratch_, pool_);
  });
}

void TapeBackend::swiglu(Tensor gate, Tensor up, Tensor out) {
  inner_.finish();
  const Saved gates = save(gate.matrix());
  const Saved ups = save(up.matrix());
  inner_.swiglu(gate, up, out);
  undo_.push_back([this, gate, up, out, gates, ups] {
    if (product_.size() < out.rows * out.cols) product_ = Buffer<float>(out.rows * out.cols);
    const Matrix grad_out(product_.data(), out.rows, out.cols);
    scale_rows(gradient(out), nullptr, grad_out, pool_);
    clear_rows(gradient(out));
    swiglu_backward({at(gates), at(ups), grad_out}, gradient(gate), gradient(up), pool_);
  });
}

void TapeBackend::finish() { inner_.finish(); }

}  // namespace subbit
