// Gradients at the outputs of linears, against what a small bias there does to the loss.
#include "compress/tune/gradient_moments.h"

#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "decoding/decoder.h"
#include "io/checkpoint.h"
#include "models/registry.h"
#include "support/test.h"
#include "support/tiny_model.h"

namespace subbit {
namespace {

using test::TinyModel;

/// -log p(next | first).
double loss_of(Model& model, int32_t first, int32_t next, ThreadPool& pool) {
  const auto backend = make_cpu_backend(pool);
  Decoder decoder(model, *backend, {2, KvType::kF32});
  const std::vector<int32_t> tokens = {first};
  const std::atomic<bool> abort{false};
  double result = 0;
  decoder.forward(tokens, LogitRows::kLast, abort, [&](int64_t, Matrix logits) {
    double sum = 0;
    for (int64_t i = 0; i < logits.cols; ++i) sum += std::exp(double{logits.at(0, i)});
    result = std::log(sum) - logits.at(0, next);
  });
  return result;
}

TEST(the_moment_of_an_output_is_the_squared_slope_of_the_loss_there) {
  for (const char* name : {"tiny-llama", "tiny-llama3"}) {
    TinyModel tiny(name);
    ThreadPool pool(2);
    JobControl control;
    const std::vector<std::vector<int32_t>> windows = {{1, 42}};
    const GradientMoments moments =
        measure_gradients({&tiny.manifest, tiny.model.get(), windows}, pool, control);
    for (const BlockSpec& block : tiny.manifest.blocks) {
      for (const LinearSpec& spec : block.linears) {
        const std::vector<float>& of_linear = moments.at(spec.name);
        EXPECT_EQ(std::ssize(of_linear), spec.shape.rows);
        for (int64_t i = 3; i < spec.shape.rows; i += spec.shape.rows / 4) {
          const Linear original = *tiny.model->find_linear(spec.name);
          const auto loss_at = [&](float bias) {
            Linear moved = original;
            int64_t row = i;
            for (Linear::Part& part : moved.parts) {
              const int64_t rows = part.weight->shape().rows;
              part.bias.resize(static_cast<size_t>(rows), 0.0f);
              if (row >= 0 && row < rows) part.bias[static_cast<size_t>(row)] += bias;
              row -= rows;
            }
            tiny.model->replace_linear(spec.name, moved);
            return loss_of(*tiny.model, 1, 42, pool);
          };
          constexpr float kStep = 0x1p-6f;
          const double slope = (loss_at(kStep) - loss_at(-kStep)) / (2 * kStep);
          tiny.model->replace_linear(spec.name, original);
          // Losses are off by some 1e-6, over the step 1e-4; slopes are a tenth and more or zero
          // (queries and keys of a lone token do nothing).
          EXPECT_NEAR(std::sqrt(of_linear[static_cast<size_t>(i)]), std::fabs(slope),
                      3e-4 + 0.01 * std::fabs(slope));
        }
      }
    }
  }
}

TEST(gradients_are_the_same_on_any_number_of_threads_and_stop_when_told) {
  TinyModel tiny("tiny-llama");
  JobControl control;
  const std::vector<std::vector<int32_t>> windows = {{1, 5, 9, 60, 2}, {1}, {1, 33, 21}};
  const auto measured = [&](int threads) {
    ThreadPool pool(threads);
    return measure_gradients({&tiny.manifest, tiny.model.get(), windows}, pool, control);
  };
  EXPECT(measured(1) == measured(3));
  control.abort = true;
  EXPECT_ERROR(ErrorCode::kAborted, "aborted", measured(1));
}

}  // namespace
}  // namespace subbit
