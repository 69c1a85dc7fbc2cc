// Training one block of a tiny model: its gradients against differences, and that each phase brings
// the block nearer to its target on text it was not trained on.
#include "compress/tune/block_training.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "base/rng.h"
#include "compress/calibrate.h"
#include "compress/tune/dense_map.h"
#include "io/checkpoint.h"
#include "models/registry.h"
#include "support/test.h"

namespace subbit {
namespace {

std::vector<std::vector<int32_t>> random_windows(int count) {
  Rng rng(11);
  std::vector<std::vector<int32_t>> windows;
  for (int w = 0; w < count; ++w) {
    std::vector<int32_t> window = {1};
    for (int i = 0; i < 31; ++i) window.push_back(static_cast<int32_t>(rng.uniform() * 67));
    windows.push_back(window);
  }
  return windows;
}

/// The first block of a tiny model with its data.
struct TinyBlock {
  explicit TinyBlock(const std::string& name, int threads = 2)
      : checkpoint(Checkpoint::open(test::fixture("models/" + name))),
        architecture(find_architecture(checkpoint.config(), checkpoint.path())),
        manifest(architecture.manifest(checkpoint.config(), checkpoint.path())),
        model(architecture.load(checkpoint, WeightMode::kAsStored)),
        pool(threads),
        backend(make_cpu_backend(pool)),
        windows(random_windows(60)),
        stream({model.get(), model->find_linear(manifest.embedding)->parts[0].weight.get(), windows,
                TeacherStream::kKept},
               *backend, pool) {
    moments = stream.observe(0, control);
    stream.advance_teacher(0, control);
    data = {&stream.compressed(), &stream.teacher(), inverse_variances(stream.teacher(), pool)};
    place = {model.get(), 0, stream.longest_window(), {}};
  }

  /// All linears as floats, standing.
  BlockState dense() const {
    BlockState state;
    for (const LinearSpec& spec : manifest.blocks[0].linears)
      state.linears.push_back({spec.name, stacked_linear(*model->find_linear(spec.name)), {}, {}});
    for (const std::string& norm : manifest.blocks[0].norms)
      state.norms.push_back({norm, true, *model->find_norm(norm)});
    return state;
  }

  void fit(BlockLinear& linear) {
    FactoredOptions options;
    options.rank = 32;
    options.iterations = 20;
    Importance importance;
    importance.inputs = moments.at(linear.name);
    FittedLinear fitted;
    fitted.name = linear.name;
    fitted.pre_scale = PreScale::kOwn;
    fitted.fit = fit_factored(linear.dense.matrix(), importance, options, pool, [](int) {});
    fitted.bias = linear.dense.bias;
    linear.fitted = std::move(fitted);
    linear.dense = {};
  }

  BlockState train(BlockState state, const BlockPhase& phase, PhaseErrors& errors) {
    return train_block(place, std::move(state), data, phase, pool, [](int64_t, double) {}, &errors);
  }

  Checkpoint checkpoint;
  const Architecture& architecture;
  Manifest manifest;
  std::unique_ptr<Model> model;
  ThreadPool pool;
  std::unique_ptr<Backend> backend;
  std::vector<std::vector<int32_t>> windows;
  JobControl control;
  CalibrationStream stream;
  InputMoments moments;
  BlockData data;
  BlockPlace place;
};

BlockPhase phase_of(int64_t updates) { return {updates, 128, {1e-2f, 3e-3f, 3e-3f}, 0.1f, 3}; }

double largest_of(std::span<const float> values) {
  double largest = 0;
  for (const float value : values) largest = std::max(largest, std::fabs(double{value}));
  return largest;
}

TEST(the_gradient_of_a_blocks_error_is_its_slope) {
  for (const char* name : {"tiny-llama", "tiny-llama3"}) {
    TinyBlock tiny(name);
    const int64_t tokens = tiny.data.inputs->length(0);
    const int64_t width = tiny.data.inputs->width();
    std::vector<float> input(static_cast<size_t>(tokens * width));
    tiny.data.inputs->read(0, {input.data(), tokens, width}, tiny.pool);
    // A target the block misses in every channel, and weights that differ.
    Rng rng(4);
    std::vector<float> target;
    std::vector<float> weights;
    for (int64_t i = 0; i < tokens * width; ++i) target.push_back(rng.normal());
    for (int64_t c = 0; c < width; ++c) weights.push_back(static_cast<float>(0.5 + rng.uniform()));
    const ConstMatrix in(input.data(), tokens, width);
    const ConstMatrix out(target.data(), tokens, width);
    for (size_t which = 0; which < tiny.manifest.blocks[0].linears.size(); ++which) {
      BlockState state = tiny.dense();
      state.linears[which].movement = Movement::kMoves;
      BlockStudent student(tiny.place, state, 0.0f, tiny.pool);
      student.run(in, out, weights, BlockStudent::Pass::kForwardAndBackward, 0.5f);
      const std::span<const float> gradient = student.dense_gradient(which);
      const std::vector<float> kept(gradient.begin(), gradient.end());
      double expected = 0;
      std::vector<float> direction;
      for (const float g : kept) {
        direction.push_back(rng.uniform() < 0.5 ? -1.0f : 1.0f);
        expected += double{direction.back()} * g;
      }
      constexpr float kStep = 0x1p-10f;
      const auto error_at = [&](float step) {
        BlockState moved = state;
        for (size_t i = 0; i < direction.size(); ++i)
          moved.linears[which].dense.values[i] += step * direction[i];
        BlockStudent at(tiny.place, std::move(moved), 0.0f, tiny.pool);
        return at.run(in, out, weights, BlockStudent::Pass::kForward, 0.0f);
      };
      const double slope = 0.5 * (error_at(kStep) - error_at(-kStep)) / (2.0 * kStep);
      // Errors of about 2,000 are sums of floats that are each off by 1e-6: 0.01 over the step of
      // 2^-9 is 5 at the worst and some hundredths as errors average; the curvature is cubic.
      const double size = std::sqrt(static_cast<double>(kept.size())) * largest_of(kept);
      EXPECT(size > 1.0);
      EXPECT_NEAR(expected, slope, 0.02 * size + 0.5);
    }
  }
}

TEST(floats_absorb_the_error_of_the_linear_before_them) {
  for (const char* name : {"tiny-llama", "tiny-llama3"}) {
    TinyBlock tiny(name);
    BlockState state = tiny.dense();
    tiny.fit(state.linears[0]);
    for (size_t i = 1; i < state.linears.size(); ++i) state.linears[i].movement = Movement::kMoves;
    const FittedLinear fitted = *state.linears[0].fitted;
    PhaseErrors errors;
    const BlockState after = tiny.train(std::move(state), phase_of(60), errors);
    EXPECT(errors.before > 0.0);
    EXPECT(errors.after < 0.9 * errors.before);
    // What stands has not moved.
    EXPECT(std::get<FactoredFit>(after.linears[0].fitted->fit).s_post ==
           std::get<FactoredFit>(fitted.fit).s_post);
    EXPECT(std::get<FactoredFit>(after.linears[0].fitted->fit).u.bits ==
           std::get<FactoredFit>(fitted.fit).u.bits);
  }
}

TEST(a_fitted_block_comes_nearer_to_the_teachers_on_text_held_out) {
  for (const char* name : {"tiny-llama", "tiny-llama3"}) {
    TinyBlock tiny(name);
    BlockState state = tiny.dense();
    for (BlockLinear& linear : state.linears) {
      tiny.fit(linear);
      linear.movement = Movement::kMoves;
    }
    state.norms_movement = Movement::kMoves;
    const std::vector<float> norm = state.norms[0].values;
    PhaseErrors errors;
    const BlockState after = tiny.train(std::move(state), phase_of(200), errors);
    EXPECT(errors.after < 0.9 * errors.before);
    EXPECT(after.norms[0].values != norm);
  }
}

TEST(a_training_that_only_harms_is_undone) {
  TinyBlock tiny("tiny-llama");
  BlockState state = tiny.dense();
  for (BlockLinear& linear : state.linears) {
    tiny.fit(linear);
    linear.movement = Movement::kMoves;
  }
  const BlockState before = state;
  BlockPhase phase = phase_of(8);
  phase.rates = {0.0f, 1.0f, 5.0f};  // leaps
  PhaseErrors errors;
  const BlockState after = tiny.train(std::move(state), phase, errors);
  EXPECT_EQ(errors.after, errors.before);
  for (size_t i = 0; i < after.linears.size(); ++i) {
    const auto& kept = std::get<FactoredFit>(after.linears[i].fitted->fit);
    const auto& start = std::get<FactoredFit>(before.linears[i].fitted->fit);
    EXPECT(kept.u.bits == start.u.bits && kept.s_post == start.s_post);
  }
}

TEST(a_silent_channel_weighs_more_than_a_loud_one_but_not_endlessly) {
  const std::vector<int64_t> lengths = {400};
  ThreadPool pool(2);
  HiddenStates states(lengths, 3);
  Rng rng(2);
  std::vector<float> values;
  for (int64_t t = 0; t < 400; ++t) {
    values.push_back(5.0f);  // a constant: no variance
    values.push_back(rng.normal());
    values.push_back(3.0f * rng.normal());
  }
  states.write(0, {values.data(), 400, 3}, pool);
  const std::vector<float> weights = inverse_variances(states, pool);
  EXPECT_NEAR((weights[0] + weights[1] + weights[2]) / 3.0, 1.0, 1e-6);
  // Variances 0, 1 and 9, a third of whose sum is damped by a tenth: 1/0.33, 1/1.33, 1/9.33, each
  // variance of 400 values known to a fifth.
  EXPECT_NEAR(weights[0] / weights[1], 4.0, 1.0);
  EXPECT_NEAR(weights[1] / weights[2], 7.0, 2.5);
}

}  // namespace
}  // namespace subbit
