// Recording, saved copies, and the linear layer, whose row scale is a value like any other: with
// y = s W x + b, the map sees s * dy, and ds = (W^T dy) . x.
#include "backend/tape/tape_backend.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "backend/tape/tape_operations.h"
#include "base/check.h"
#include "base/wide_loop.h"
#include "linalg/gemm.h"
#include "linalg/row_reduction.h"

namespace subbit {
namespace {

constexpr int64_t kBlockFloats = int64_t{1} << 20;
constexpr int64_t kRowsPerTask = 16;
constexpr int64_t kColumnsPerTask = 64;

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

void clear_rows(Matrix m, ThreadPool& pool) {
  pool.parallel_for(m.rows, kRowsPerTask, [&](Range range) {
    for (int64_t t = range.begin; t < range.end; ++t) std::fill_n(m.row(t), m.cols, 0.0f);
  });
}

/// sums += the sum of the rows. Columns are shared out, so that each sum runs over the tokens in
/// order.
void add_rows(ConstMatrix m, std::span<float> sums, ThreadPool& pool) {
  wide_parallel_for(pool, m.cols, kColumnsPerTask, [&](Range range) {
    for (int64_t t = 0; t < m.rows; ++t) {
      const float* row = m.row(t);
      for (int64_t i = range.begin; i < range.end; ++i) sums[static_cast<size_t>(i)] += row[i];
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

void TapeBackend::watch(const Tensor& tensor, std::function<void(ConstMatrix gradient)> look) {
  undo_.push_back([this, tensor, look = std::move(look)] { look(gradient(tensor)); });
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
  pool_.parallel_for(values.rows, kRowsPerTask, [&](Range range) {
    for (int64_t t = range.begin; t < range.end; ++t)
      std::copy_n(values.row(t), values.cols, copy.row(t));
  });
  return saved;
}

Matrix TapeBackend::take_gradient(const Tensor& tensor) {
  if (product_.size() < tensor.rows * tensor.cols)
    product_ = Buffer<float>(tensor.rows * tensor.cols);
  const Matrix taken(product_.data(), tensor.rows, tensor.cols);
  const Matrix place = gradient(tensor);
  pool_.parallel_for(tensor.rows, kRowsPerTask, [&](Range range) {
    for (int64_t t = range.begin; t < range.end; ++t) {
      std::copy_n(place.row(t), tensor.cols, taken.row(t));
      std::fill_n(place.row(t), tensor.cols, 0.0f);
    }
  });
  return taken;
}

std::vector<int64_t> TapeBackend::sequences_of(const Tensor& tensor) const {
  return sequences_.empty() ? std::vector<int64_t>{tensor.rows} : sequences_;
}

void TapeBackend::forget_to(const Mark& mark) {
  CHECK(mark.steps <= undo_.size());
  undo_.resize(mark.steps);
  block_ = mark.block;
  used_ = mark.used;
}

void TapeBackend::play_backwards_to(const Mark& mark) {
  for (size_t step = undo_.size(); step > mark.steps; --step) undo_[step - 1]();
  forget_to(mark);
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
  if (embedding_ == nullptr) {
    inner_.embed(table, tokens, h);
    undo_.push_back([this, h] { clear_rows(gradient(h), pool_); });
    return;
  }
  embedding_->look_up(tokens, h.matrix());
  undo_.push_back([this, h, rows = std::vector<int32_t>(tokens.begin(), tokens.end())] {
    embedding_->add_gradient(rows, gradient(h));
    clear_rows(gradient(h), pool_);
  });
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
    clear_rows(gradient(out), pool_);
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
  add_output(product, map.bias(), x.row_scale, y, mode);
  Saved scales;
  if (x.row_scale != nullptr) scales = save({x.row_scale, 1, x.rows});
  undo_.push_back([this, &map, x, y, input, scales, kept_span, mode] {
    const float* row_scale = x.row_scale == nullptr ? nullptr : at(scales).data;
    if (!map.bias_gradient().empty()) add_rows(gradient(y), map.bias_gradient(), pool_);
    const Matrix scaled = scaled_gradient(y, row_scale, mode);
    const Matrix grad(product_.data(), x.rows, x.cols);
    map.backward(at(input), scaled, kept_span(), grad);
    add_input_gradient(grad, at(input), row_scale, x);
  });
}

/// y = or += row_scale * product + bias.
void TapeBackend::add_output(ConstMatrix product, std::span<const float> bias,
                             const float* row_scale, const Tensor& y, OutputMode mode) {
  wide_parallel_for(pool_, y.rows, kRowsPerTask, [&](Range range) {
    for (int64_t t = range.begin; t < range.end; ++t) {
      const float scale = row_scale == nullptr ? 1.0f : row_scale[t];
      const float* from = product.row(t);
      float* to = y.data + t * y.stride;
      if (mode == OutputMode::kOverwrite) std::fill_n(to, y.cols, 0.0f);
      if (bias.empty()) {
        for (int64_t i = 0; i < y.cols; ++i) to[i] += scale * from[i];
      } else {
        for (int64_t i = 0; i < y.cols; ++i)
          to[i] += scale * from[i] + bias[static_cast<size_t>(i)];
      }
    }
  });
}

/// row_scale * the gradient of `y`, in scratch_. The place of an overwritten y is cleared.
Matrix TapeBackend::scaled_gradient(const Tensor& y, const float* row_scale, OutputMode mode) {
  if (scratch_.size() < y.rows * y.cols) scratch_ = Buffer<float>(y.rows * y.cols);
  const Matrix scaled(scratch_.data(), y.rows, y.cols);
  const Matrix place = gradient(y);
  wide_parallel_for(pool_, y.rows, kRowsPerTask, [&](Range range) {
    for (int64_t t = range.begin; t < range.end; ++t) {
      const float scale = row_scale == nullptr ? 1.0f : row_scale[t];
      float* from = place.row(t);
      float* to = scaled.row(t);
      for (int64_t i = 0; i < y.cols; ++i) to[i] = scale * from[i];
      if (mode == OutputMode::kOverwrite) std::fill_n(from, y.cols, 0.0f);
    }
  });
  return scaled;
}

/// Adds `grad`, which is that of `values`, to the mirrors of x and of its row scale.
void TapeBackend::add_input_gradient(ConstMatrix grad, ConstMatrix values, const float* row_scale,
                                     const Tensor& x) {
  const Matrix grad_x = gradient(x);
  float* grad_scale = row_scale == nullptr ? nullptr : mirror(x.row_scale);
  wide_parallel_for(pool_, x.rows, kRowsPerTask, [&](Range range) {
    for (int64_t t = range.begin; t < range.end; ++t) {
      const float* from = grad.row(t);
      float* to = grad_x.row(t);
      for (int64_t j = 0; j < x.cols; ++j) to[j] += from[j];
      if (row_scale == nullptr) continue;
      grad_scale[t] += dot_of(from, values.row(t), x.cols) / row_scale[t];
    }
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
  const std::vector<int64_t> lengths = sequences_of(x);
  int64_t first = 0;
  for (const int64_t tokens : lengths) {
    inner_.rope(table, 0, heads, x.rows_from(first, tokens));
    first += tokens;
  }
  CHECK(first == x.rows);
  undo_.push_back([this, &table, heads, x, lengths] {
    rope_backward(table, heads, lengths, gradient(x), pool_);
  });
}

void TapeBackend::attention(const AttentionShape& shape, Tensor q, Tensor k, Tensor v,
                            const KvLayer&, int64_t first_position, Tensor out) {
  CHECK(first_position == 0);
  inner_.finish();
  const Saved queries = save(q.matrix());
  const Saved keys = save(k.matrix());
  const Saved values = save(v.matrix());
  const auto tensors = [this, shape, queries, keys, values](std::span<const int64_t> lengths) {
    return AttentionTensors{shape, lengths, at(queries), at(keys), at(values)};
  };
  const std::vector<int64_t> lengths = sequences_of(q);
  attention_forward(tensors(lengths), out.matrix(), scratch_, pool_);
  undo_.push_back([this, q, k, v, out, tensors, lengths] {
    // `out` may be where an input was: its gradient is moved out of the way first.
    const Matrix grad_out = take_gradient(out);
    attention_backward(tensors(lengths), grad_out, {gradient(q), gradient(k), gradient(v)},
                       scratch_, pool_);
  });
}

void TapeBackend::swiglu(Tensor gate, Tensor up, Tensor out) {
  inner_.finish();
  const Saved gates = save(gate.matrix());
  const Saved ups = save(up.matrix());
  inner_.swiglu(gate, up, out);
  undo_.push_back([this, gate, up, out, gates, ups] {
    const Matrix grad_out = take_gradient(out);
    swiglu_backward({at(gates), at(ups), grad_out}, gradient(gate), gradient(up), pool_);
  });
}

void TapeBackend::finish() { inner_.finish(); }

}  // namespace subbit
