// What each linear's error costs, against the long way round: the linear reduced to signs with
// magnitudes found in doubles, both models read whole, divergences summed over the likeliest tokens
// one by one.
#include "compress/sensitivity.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "compress/calibrate.h"
#include "compress/plan.h"
#include "decoding/decoder.h"
#include "formats/registry.h"
#include "io/checkpoint.h"
#include "models/registry.h"
#include "support/test.h"
#include "support/tiny_model.h"

namespace subbit {
namespace {

using Windows = std::vector<std::vector<int32_t>>;
using Rows = std::vector<std::vector<double>>;

using test::OpenedModel;
using test::TinyModel;

/// Probabilities of what follows each token.
Rows read(Model& model, const std::vector<int32_t>& window, ThreadPool& pool) {
  const auto backend = make_cpu_backend(pool);
  Decoder decoder(model, *backend, {std::ssize(window), KvType::kF32});
  const std::atomic<bool> abort{false};
  Rows rows;
  decoder.forward(window, LogitRows::kAll, abort, [&](int64_t, Matrix logits) {
    for (int64_t t = 0; t < logits.rows; ++t) {
      std::vector<double> row(logits.row(t), logits.row(t) + logits.cols);
      const double largest = *std::max_element(row.begin(), row.end());
      double sum = 0;
      for (double& x : row) sum += x = std::exp(x - largest);
      for (double& x : row) x /= sum;
      rows.push_back(std::move(row));
    }
  });
  return rows;
}

/// KL of the teacher's 32 likeliest one by one, and of the rest as one outcome.
double divergence(const std::vector<double>& p, const std::vector<double>& q) {
  std::vector<size_t> order(p.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return p[a] > p[b]; });
  double kl = 0;
  double rest_p = 1;
  double rest_q = 1;
  for (size_t i = 0; i < std::min<size_t>(32, order.size()); ++i) {
    kl += p[order[i]] * std::log(p[order[i]] / q[order[i]]);
    rest_p -= p[order[i]];
    rest_q -= q[order[i]];
  }
  return rest_p > 1e-6 ? kl + rest_p * std::log(rest_p / rest_q) : kl;
}

/// The linear in signs, and its relative error, inputs weighted by their mean squares.
std::pair<Linear, double> in_signs(const Linear& original, const std::vector<float>& moments,
                                   std::vector<std::vector<float>>& storage) {
  const int64_t rows = original.shape.rows;
  const int64_t cols = original.shape.cols;
  std::vector<float> weights(static_cast<size_t>(rows * cols));
  int64_t first = 0;
  for (const Linear::Part& part : original.parts) {
    const int64_t count = part.weight->shape().rows;
    part.weight->unpack_rows(0, {weights.data() + first * cols, count, cols});
    first += count;
  }
  const double mean = std::accumulate(moments.begin(), moments.end(), 0.0) / double(cols);
  const auto size = [&](int64_t j) { return std::sqrt(moments[j] + 1e-4 * mean); };
  const auto magnitude = [&](int64_t i, int64_t j) {
    return std::fabs(weights[i * cols + j]) * size(j);
  };
  std::vector<double> column(cols, 1.0);
  std::vector<double> row(rows);
  for (int step = 0; step < 100; ++step) {
    double squares = 0;
    for (const double x : column) squares += x * x;
    for (double& x : column) x /= std::sqrt(squares);
    for (int64_t i = 0; i < rows; ++i) {
      row[i] = 0;
      for (int64_t j = 0; j < cols; ++j) row[i] += magnitude(i, j) * column[j];
    }
    if (step == 99) break;
    for (int64_t j = 0; j < cols; ++j) {
      column[j] = 0;
      for (int64_t i = 0; i < rows; ++i) column[j] += magnitude(i, j) * row[i];
    }
  }
  double squares = 0;
  double errors = 0;
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < cols; ++j) {
      const double difference = magnitude(i, j) - row[i] * column[j];
      squares += magnitude(i, j) * magnitude(i, j);
      errors += difference * difference;
      float& weight = weights[i * cols + j];
      weight = std::copysign(static_cast<float>(row[i] * column[j] / size(j)), weight);
    }
  }
  storage.push_back(std::move(weights));
  Linear signs{original.name, {}, original.shape};
  first = 0;
  for (const Linear::Part& part : original.parts) {
    const Shape shape = part.weight->shape();
    const std::span floats(storage.back().data() + first * cols,
                           static_cast<size_t>(shape.count()));
    const TensorView view{
        original.name, DType::kF32, {shape.rows, shape.cols}, std::as_bytes(floats)};
    signs.parts.push_back({find_format("dense")->view(view, shape), part.bias});
    first += shape.rows;
  }
  return {signs, errors / squares};
}

Windows some_windows() { return {{1, 42, 7, 13, 60, 5}, {1, 3, 50, 8}}; }

/// Of every input of block `index`.
InputMoments moments_of(OpenedModel& opened, const Windows& windows, int64_t index,
                        ThreadPool& pool) {
  const auto backend = make_cpu_backend(pool);
  JobControl control;
  const Weight& embedding = *opened.model->find_linear(opened.manifest.embedding)->parts[0].weight;
  CalibrationStream stream({opened.model.get(), &embedding, windows, TeacherStream::kNone},
                           *backend, pool);
  for (int64_t before = 0; before < index; ++before) stream.advance(before, control);
  return stream.observe(index, control);
}

void expect_as_the_long_way_round(OpenedModel& opened, const Windows& windows) {
  ThreadPool pool(2);
  JobControl control;
  const Sensitivities measured =
      measure_sensitivities({&opened.manifest, opened.model.get(), windows, 8}, pool, control);
  std::vector<std::vector<float>> storage;
  std::vector<Rows> before;
  for (const auto& window : windows) before.push_back(read(*opened.model, window, pool));
  for (size_t b = 0; b < opened.manifest.blocks.size(); ++b) {
    const InputMoments moments = moments_of(opened, windows, static_cast<int64_t>(b), pool);
    for (const LinearSpec& spec : opened.manifest.blocks[b].linears) {
      const Linear original = *opened.model->find_linear(spec.name);
      const auto [signs, error] = in_signs(original, moments.at(spec.name), storage);
      opened.model->replace_linear(spec.name, signs);
      double sum = 0;
      double tokens = 0;
      for (size_t w = 0; w < windows.size(); ++w) {
        const Rows after = read(*opened.model, windows[w], pool);
        for (size_t t = 0; t < after.size(); ++t, ++tokens)
          sum += divergence(before[w][t], after[t]);
      }
      opened.model->replace_linear(spec.name, original);
      // Eight power iterations leave a hundredth of a magnitude; hidden states between blocks
      // are halves.
      const double expected = sum / tokens / error;
      EXPECT_NEAR(measured.at(spec.name), expected, 0.03 * expected + 1e-6);
    }
  }
}

TEST(the_cost_of_an_error_is_the_divergence_of_a_linear_in_signs_over_its_error) {
  for (const char* name : {"tiny-llama", "tiny-llama3"}) {
    TinyModel tiny(name);
    expect_as_the_long_way_round(tiny, some_windows());
  }
}

TEST(the_cost_of_an_error_counts_every_token_of_a_window_that_is_read_in_pieces) {
  OpenedModel model(test::shared_data("models/stories260K"));
  Windows windows(2);
  for (int32_t t = 0; t < 200; ++t) windows[0].push_back(t == 0 ? 1 : 3 + t * 37 % 500);
  windows[1].assign(windows[0].begin(), windows[0].begin() + 130);
  expect_as_the_long_way_round(model, windows);
}

TEST(measuring_what_errors_cost_leaves_the_model_as_it_was_and_stops_when_told) {
  TinyModel tiny("tiny-llama");
  const Windows windows = some_windows();
  const auto measured = [&](int threads, JobControl& control) {
    ThreadPool pool(threads);
    return measure_sensitivities({&tiny.manifest, tiny.model.get(), windows, 8}, pool, control);
  };
  JobControl control;
  const Sensitivities first = measured(1, control);
  EXPECT(first == measured(3, control));
  int64_t calls = 0;
  control.on_progress = [&](const Progress& progress) {
    EXPECT_EQ(progress.phase, std::string("sensitivity"));
    if (++calls == 3) control.abort = true;
  };
  EXPECT_ERROR(ErrorCode::kAborted, "", measured(1, control));
  control.on_progress = nullptr;
  control.abort = false;
  EXPECT(first == measured(1, control));
}

TEST(where_errors_cost_more_there_are_more_bits) {
  TinyModel tiny("tiny-llama");
  CompressionRequest request{&tiny.manifest,
                             tiny.model.get(),
                             &tiny.checkpoint,
                             {CompressTarget::Unit::kBodyBits, 2.5, 0},
                             {},
                             {},
                             {},
                             {}};
  request.stages.forms = CompressStages::Forms::kCodes;  // ranks of so small a model have no choice
  const auto bytes_of = [&](const std::string& name) {
    const CompressionPlan plan = plan_compression(request);
    for (const BlockPlan& block : plan.blocks)
      for (const LinearPlan& linear : block.linears)
        if (linear.spec->name == name) return linear.bytes;
    return uint64_t{0};
  };
  const std::string name = tiny.manifest.blocks[1].linears[0].name;
  for (const BlockSpec& block : tiny.manifest.blocks)
    for (const LinearSpec& spec : block.linears) request.sensitivities[spec.name] = 1.0;
  const uint64_t alike = bytes_of(name);
  request.sensitivities[name] = 100.0;
  EXPECT(bytes_of(name) > alike);
}

}  // namespace
}  // namespace subbit
