#include "compress/calibrate.h"

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "compress/observing_backend.h"
#include "io/checkpoint.h"
#include "support/test.h"
#include "support/tiny_model.h"

namespace subbit {
namespace {

using test::TinyModel;

CalibrationRequest request_for(const TinyModel& tiny, std::span<const std::vector<int32_t>> windows,
                               TeacherStream teacher = TeacherStream::kNone) {
  const Linear* embedding = tiny.model->find_linear(tiny.manifest.embedding);
  return {tiny.model.get(), embedding->parts[0].weight.get(), windows, teacher};
}

const std::vector<std::vector<int32_t>> kWindows = {{1, 5, 9, 33, 2, 60}, {1}, {1, 7, 7}};

/// Counts what reaches it; computes nothing.
class CountingBackend final : public Backend {
 public:
  int embeds = 0, norms = 0, linears = 0, adds = 0, ropes = 0, attentions = 0, swiglus = 0;

  void embed(const Weight&, std::span<const int32_t>, Tensor) override { ++embeds; }
  void rms_norm(Tensor, std::span<const float>, float, Tensor) override { ++norms; }
  void linear(const Linear&, Tensor, Tensor) override { ++linears; }
  void linear_add(const Linear&, Tensor, Tensor) override { ++adds; }
  void rope(const RopeTable&, int64_t, int64_t, Tensor) override { ++ropes; }
  void attention(const AttentionShape&, Tensor, Tensor, Tensor, const KvLayer&, int64_t,
                 Tensor) override {
    ++attentions;
  }
  void swiglu(Tensor, Tensor, Tensor) override { ++swiglus; }
  void argmax(Tensor, int32_t&) override {}
  void finish() override {}
};

TEST(an_observer_hands_every_call_on) {
  CountingBackend inner;
  ObservingBackend observer(inner);
  Linear linear;
  linear.shape = {1, 0};
  observer.rms_norm({}, {}, 0.0f, {});
  observer.linear(linear, {}, {});
  observer.linear_add(linear, {}, {});
  observer.linear_add(linear, {}, {});
  observer.rope({}, 0, 0, {});
  observer.attention({}, {}, {}, {}, {}, 0, {});
  observer.swiglu({}, {}, {});
  EXPECT_EQ(inner.norms, 1);
  EXPECT_EQ(inner.linears, 1);
  EXPECT_EQ(inner.adds, 2);
  EXPECT_EQ(inner.ropes, 1);
  EXPECT_EQ(inner.attentions, 1);
  EXPECT_EQ(inner.swiglus, 1);
}

TEST(an_observer_counts_the_scale_a_norm_left_on_its_rows) {
  CountingBackend inner;
  ObservingBackend observer(inner);
  Linear linear;
  linear.name = "w";
  linear.shape = {1, 2};
  float values[] = {1.0f, 2.0f, -1.0f, 3.0f, 4.0f, -1.0f};  // stride 3: the third is another's
  float scales[] = {2.0f, 0.5f};
  observer.linear(linear, {values, 2, 2, 3, scales}, {});
  observer.linear(linear, {values, 1, 2, 3, nullptr}, {});
  const auto& squares = observer.squares().at("w");
  EXPECT_EQ(squares.tokens, 3);
  EXPECT_EQ(squares.sums[0], 4.0 + 0.25 * 9.0 + 1.0);
  EXPECT_EQ(squares.sums[1], 16.0 + 0.25 * 16.0 + 4.0);
}

TEST(an_observer_sums_the_products_of_those_it_was_asked_for) {
  CountingBackend inner;
  ThreadPool pool(2);
  ObservingBackend observer(inner, {"w"}, pool);
  Linear wanted;
  wanted.name = "w";
  wanted.shape = {1, 2};
  Linear other = wanted;
  other.name = "v";
  float values[] = {1.0f, 2.0f, -1.0f, 3.0f, 4.0f, -1.0f};
  float scales[] = {2.0f, 0.5f};
  observer.linear(wanted, {values, 2, 2, 3, scales}, {});
  observer.linear_add(wanted, {values, 1, 2, 3, nullptr}, {});
  observer.linear(other, {values, 2, 2, 3, scales}, {});
  const auto covariances = observer.take_covariances();
  EXPECT_EQ(covariances.size(), size_t{1});
  const Buffer<float>& products = covariances.at("w");
  EXPECT_EQ(products.size(), int64_t{4});
  EXPECT_NEAR(products[0], (4.0 + 0.25 * 9.0 + 1.0) / 3.0, 1e-6);
  EXPECT_NEAR(products[1], (8.0 + 0.25 * 12.0 + 2.0) / 3.0, 1e-6);
  EXPECT_EQ(products[1], products[2]);
  EXPECT_NEAR(products[3], (16.0 + 0.25 * 16.0 + 4.0) / 3.0, 1e-6);
}

TEST(calibration_sees_every_linear_of_a_block_and_moves_only_when_told) {
  TinyModel tiny("tiny-llama");
  ThreadPool pool(2);
  const auto backend = make_cpu_backend(pool);
  JobControl control;
  CalibrationStream stream(request_for(tiny, kWindows), *backend, pool);
  EXPECT_EQ(stream.tokens(), 10);
  const InputMoments first = stream.observe(0, control);
  const InputMoments again = stream.observe(0, control);
  EXPECT(first == again);
  for (const LinearSpec& spec : tiny.manifest.blocks[0].linears) {
    const auto found = first.find(spec.name);
    EXPECT(found != first.end());
    if (found == first.end()) continue;
    EXPECT_EQ(static_cast<int64_t>(found->second.size()), spec.shape.cols);
    for (const float h : found->second) EXPECT(h > 0.0f && std::isfinite(h));
  }
  stream.advance(0, control);
  const InputMoments second = stream.observe(1, control);
  EXPECT(second.contains(tiny.manifest.blocks[1].linears[0].name));
}

TEST(the_moments_of_a_normed_input_are_those_of_the_norm) {
  // rms_norm leaves mean over columns of (x_j / f_j)^2 = 1 up to eps, for every token.
  TinyModel tiny("tiny-llama");
  ThreadPool pool(1);
  const auto backend = make_cpu_backend(pool);
  JobControl control;
  CalibrationStream stream(request_for(tiny, kWindows), *backend, pool);
  const InputMoments moments = stream.observe(0, control);
  const std::vector<float>& h = moments.at(tiny.manifest.blocks[0].linears[0].name);
  const std::vector<float>* norm = tiny.model->find_norm(tiny.manifest.blocks[0].norms[0]);
  double mean = 0.0;
  for (size_t j = 0; j < h.size(); ++j)
    mean += h[j] / (static_cast<double>((*norm)[j]) * (*norm)[j]) / static_cast<double>(h.size());
  // eps = 1e-5 against embeddings of order 0.1 to 1 squared: at most 1e-3 below one.
  EXPECT_NEAR(mean, 1.0, 2e-3);
}

TEST(calibration_refuses_windows_that_do_not_fit_the_model) {
  TinyModel tiny("tiny-llama");
  ThreadPool pool(1);
  const auto backend = make_cpu_backend(pool);
  const auto make = [&](std::vector<std::vector<int32_t>> windows) {
    CalibrationStream stream(request_for(tiny, windows), *backend, pool);
  };
  EXPECT_ERROR(ErrorCode::kInvalidOption, "no calibration text", make({}));
  EXPECT_ERROR(ErrorCode::kInvalidOption, "length", make({{1, 2}, {}}));
  EXPECT_ERROR(ErrorCode::kInvalidOption, "length", make({std::vector<int32_t>(65, 1)}));
  EXPECT_ERROR(ErrorCode::kInvalidOption, "vocabulary", make({{1, 67}}));
  EXPECT_ERROR(ErrorCode::kInvalidOption, "vocabulary", make({{1, -1}}));
  make({std::vector<int32_t>(64, 66)});
}

TEST(calibration_stops_when_aborted) {
  TinyModel tiny("tiny-llama");
  ThreadPool pool(1);
  const auto backend = make_cpu_backend(pool);
  CalibrationStream stream(request_for(tiny, kWindows), *backend, pool);
  JobControl control;
  control.abort = true;
  EXPECT_ERROR(ErrorCode::kAborted, "aborted", stream.observe(0, control));
  EXPECT_ERROR(ErrorCode::kAborted, "aborted", stream.advance(0, control));
}

}  // namespace
}  // namespace subbit
