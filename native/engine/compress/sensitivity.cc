// Blocks before the linear in question are passed once: their hidden states are kept, and every
// measurement starts from those.
#include "compress/sensitivity.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <utility>

#include "backend/cpu/cpu_backend.h"
#include "base/check.h"
#include "compress/calibrate.h"
#include "compress/fit/factored/svid.h"
#include "compress/tune/teacher.h"
#include "decoding/decoder.h"
#include "formats/registry.h"

namespace subbit {
namespace {

constexpr int kPowerIterations = 8;

std::vector<std::vector<int32_t>> chosen_windows(const SensitivityRequest& request) {
  const auto count = std::min(static_cast<size_t>(request.most_windows), request.windows.size());
  std::vector<std::vector<int32_t>> chosen;
  for (size_t i = 0; i < count; ++i) {
    const std::vector<int32_t>& window = request.windows[i * request.windows.size() / count];
    chosen.emplace_back(window.begin(),
                        window.begin() + std::min<int64_t>(std::ssize(window), kSensitivityTokens));
  }
  return chosen;
}

/// A linear reduced to signs, what it views, and how wrong it is.
struct SignLinear {
  Linear linear;
  Buffer<float> values;
  double error = 0.0;  // relative, squared, weighted
};

Buffer<float> weights_of(const Linear& linear) {
  Buffer<float> values(linear.shape.count());
  int64_t row = 0;
  for (const Linear::Part& part : linear.parts) {
    const Shape shape = part.weight->shape();
    part.weight->unpack_rows(0, {values.data() + row * shape.cols, shape.rows, shape.cols});
    row += shape.rows;
  }
  return values;
}

/// Scales each column by `factors`, or by their inverses.
void scale_columns(Matrix matrix, std::span<const float> factors, bool inverse, ThreadPool& pool) {
  pool.parallel_for(matrix.rows, 8, [&](Range range) {
    for (int64_t i = range.begin; i < range.end; ++i)
      for (int64_t j = 0; j < matrix.cols; ++j)
        matrix.row(i)[j] = inverse ? matrix.row(i)[j] / factors[j] : matrix.row(i)[j] * factors[j];
  });
}

/// The root mean square of each input; a column that never moves is given a little of the others'.
std::vector<float> column_sizes(const std::vector<float>& moments) {
  const double mean =
      std::accumulate(moments.begin(), moments.end(), 0.0) / static_cast<double>(moments.size());
  std::vector<float> sizes;
  for (const float moment : moments)
    sizes.push_back(static_cast<float>(std::sqrt(std::max(moment + 1e-4 * mean, 1e-30))));
  return sizes;
}

/// In place: signs times the rank-one magnitude nearest to |values|. Returns the relative error.
double reduce_to_signs(Matrix values, ThreadPool& pool) {
  Svid svid;
  update_svid(values, kPowerIterations, svid, pool);
  double squares = 0.0;
  double errors = 0.0;
  for (int64_t i = 0; i < values.rows; ++i) {
    for (int64_t j = 0; j < values.cols; ++j) {
      float& value = values.row(i)[j];
      const float sign = std::copysign(svid.row[i] * svid.column[j], value);
      squares += static_cast<double>(value) * value;
      errors += static_cast<double>(value - sign) * (value - sign);
      value = sign;
    }
  }
  return squares > 0.0 ? errors / squares : 0.0;
}

SignLinear signs_of(const Linear& original, const std::vector<float>& moments, ThreadPool& pool) {
  SignLinear signs;
  signs.values = weights_of(original);
  const Matrix values(signs.values.data(), original.shape.rows, original.shape.cols);
  const std::vector<float> sizes = column_sizes(moments);
  scale_columns(values, sizes, false, pool);
  signs.error = reduce_to_signs(values, pool);
  scale_columns(values, sizes, true, pool);
  signs.linear = {original.name, {}, original.shape};
  int64_t row = 0;
  for (const Linear::Part& part : original.parts) {
    const Shape shape = part.weight->shape();
    const std::span floats(values.row(row), static_cast<size_t>(shape.count()));
    const TensorView view{
        original.name, DType::kF32, {shape.rows, shape.cols}, std::as_bytes(floats)};
    signs.linear.parts.push_back({find_format("dense")->view(view, shape), part.bias});
    row += shape.rows;
  }
  return signs;
}

class Measurement {
 public:
  Measurement(const SensitivityRequest& request, ThreadPool& pool, JobControl& control)
      : manifest_(*request.manifest),
        model_(*request.model),
        windows_(chosen_windows(request)),
        pool_(pool),
        control_(control),
        backend_(make_cpu_backend(pool)),
        columns_(all_columns(model_.config().vocab_size)),
        stream_({&model_, model_.find_linear(manifest_.embedding)->parts[0].weight.get(), windows_,
                 TeacherStream::kNone},
                *backend_, pool) {
    const int64_t longest = stream_.longest_window();
    const ModelConfig& config = model_.config();
    activations_ = carve_activations(model_.activation_widths(),
                                     {longest, longest, kLogitRows, KvType::kF32}, storage_);
    keys_ = Buffer<float>(longest * config.num_key_value_heads * config.head_dim);
    values_ = Buffer<float>(keys_.size());
    for (const BlockSpec& block : manifest_.blocks) linears_ += std::ssize(block.linears);
  }

  Sensitivities run() {
    for (size_t i = 0; i < windows_.size(); ++i) targets_.push_back(targets_of(i));
    Sensitivities result;
    for (size_t b = 0; b < manifest_.blocks.size(); ++b) {
      const auto index = static_cast<int64_t>(b);
      const InputMoments moments = stream_.observe(index, silent_);
      for (const LinearSpec& spec : manifest_.blocks[b].linears)
        result[spec.name] = sensitivity(index, spec.name, moments.find(spec.name)->second);
      stream_.advance(index, silent_);
    }
    return result;
  }

 private:
  /// Window `i` from block `first` on, whose input the stream holds; `take` gets its logits, piece
  /// by piece.
  template <typename Take>
  void read(int64_t first, size_t i, const Take& take) {
    const int64_t tokens = stream_.compressed().length(i);
    stream_.compressed().read(i, activations_.h.rows_from(0, tokens).matrix(), pool_);
    const KvLayer kv{KvType::kF32, keys_.data(), values_.data(), stream_.longest_window()};
    for (int64_t layer = first; layer < model_.config().num_hidden_layers; ++layer)
      model_.block(*backend_, layer, {0, tokens}, kv, activations_);
    for (int64_t row = 0; row < tokens; row += kLogitRows) {
      const int64_t rows = std::min(kLogitRows, tokens - row);
      model_.head(*backend_, row, rows, activations_);
      backend_->finish();
      take(static_cast<size_t>(row / kLogitRows), activations_.logits.rows_from(0, rows).matrix());
    }
  }

  /// What the original says.
  std::vector<TeacherTargets> targets_of(size_t window) {
    std::vector<TeacherTargets> pieces;
    read(0, window, [&](size_t, Matrix logits) {
      TargetCollector collector(logits.rows, logits.cols);
      collector.add(0, logits, pool_);
      TeacherTargets& targets = pieces.emplace_back(collector.take());
      for (int32_t& column : targets.columns)  // of all columns
        column = targets.vocabulary[static_cast<size_t>(column)];
    });
    return pieces;
  }

  /// Nats a token by which the model, as it is now, departs from the original.
  double divergence(int64_t first_block) {
    double sum = 0.0;
    for (size_t i = 0; i < windows_.size(); ++i) {
      read(first_block, i, [&](size_t piece, Matrix logits) {
        sum += distillation_loss(targets_[i][piece], columns_, logits, nullptr, pool_);
      });
    }
    return sum / static_cast<double>(stream_.tokens());
  }

  double sensitivity(int64_t block, const std::string& name, const std::vector<float>& moments) {
    check_abort(name);
    const Linear original = *model_.find_linear(name);
    const SignLinear signs = signs_of(original, moments, pool_);
    model_.replace_linear(name, signs.linear);
    double harm = 0.0;
    try {
      harm = divergence(block);
    } catch (...) {
      model_.replace_linear(name, original);
      throw;
    }
    model_.replace_linear(name, original);
    if (!std::isfinite(harm))
      throw Error(ErrorCode::kNonFinite, "the model overflows where " + name + " is reduced",
                  {{"tensor", name}});
    return signs.error > 0.0 ? harm / signs.error : 0.0;
  }

  void check_abort(const std::string& name) {
    if (control_.abort.load()) throw Error(ErrorCode::kAborted, "compression was aborted");
    if (!control_.on_progress) return;
    control_.on_progress(
        {"sensitivity", static_cast<double>(done_++), static_cast<double>(linears_), name});
  }

  const Manifest& manifest_;
  Model& model_;
  std::vector<std::vector<int32_t>> windows_;
  ThreadPool& pool_;
  JobControl& control_;
  JobControl silent_;  // for short work: this one tells how far all of it has come
  std::unique_ptr<Backend> backend_;
  HeadColumns columns_;
  CalibrationStream stream_;
  std::vector<std::vector<TeacherTargets>> targets_;  // of each window, as read() cuts it
  Buffer<float> storage_;
  Activations activations_;
  Buffer<float> keys_;
  Buffer<float> values_;
  int64_t linears_ = 0;
  int64_t done_ = 0;
};

}  // namespace

Sensitivities measure_sensitivities(const SensitivityRequest& request, ThreadPool& pool,
                                    JobControl& control) {
  CHECK(!request.windows.empty() && request.most_windows > 0);
  return Measurement(request, pool, control).run();
}

}  // namespace subbit
