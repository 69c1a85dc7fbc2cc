// Gradients of whole models, through the architecture's own forward pass: what a weight, a norm or
// a bias does to the logits must be what the tape says it does.
#include "backend/tape/tape_backend.h"

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "base/rng.h"
#include "decoding/decoder.h"
#include "io/checkpoint.h"
#include "linalg/gemm.h"
#include "models/registry.h"
#include "support/test.h"

namespace subbit {
namespace {

/// A dense linear whose weights and bias can be moved.
class DenseMap final : public LinearMap {
 public:
  DenseMap(const Linear& linear, ThreadPool& pool)
      : shape_(linear.shape),
        values(linear.shape.count()),
        gradients(values.size(), 0.0f),
        pool_(pool) {
    Matrix rest(values.data(), shape_.rows, shape_.cols);
    for (const Linear::Part& part : linear.parts) {
      const int64_t rows = part.weight->shape().rows;
      part.weight->unpack_rows(0, rest.rows_from(0, rows));
      biases.insert(biases.end(), part.bias.begin(), part.bias.end());
      rest = rest.rows_from(rows, rest.rows - rows);
    }
    bias_gradients.resize(biases.size());
  }
  Shape shape() const override { return shape_; }
  std::span<const float> bias() const override { return biases; }
  std::span<float> bias_gradient() override { return bias_gradients; }
  void forward(ConstMatrix x, Matrix y, std::span<float>) override {
    gemm(x, {ConstMatrix(values.data(), shape_.rows, shape_.cols), Transpose::kYes}, y,
         Accumulate::kOverwrite, pool_);
  }
  void backward(ConstMatrix x, ConstMatrix grad_y, std::span<const float>, Matrix grad_x) override {
    gemm(grad_y, ConstMatrix(values.data(), shape_.rows, shape_.cols), grad_x,
         Accumulate::kOverwrite, pool_);
    gemm({grad_y, Transpose::kYes}, x, {gradients.data(), shape_.rows, shape_.cols},
         Accumulate::kAdd, pool_);
  }

 private:
  Shape shape_;

 public:
  Buffer<float> values;
  Buffer<float> gradients;
  std::vector<float> biases;
  std::vector<float> bias_gradients;

 private:
  ThreadPool& pool_;
};

/// A tiny model on a tape; its loss is a fixed random mixture of all logits.
struct TapedModel {
  explicit TapedModel(const std::string& name, int threads = 2)
      : checkpoint(Checkpoint::open(test::fixture("models/" + name))),
        architecture(find_architecture(checkpoint.config(), checkpoint.path())),
        manifest(architecture.manifest(checkpoint.config(), checkpoint.path())),
        model(architecture.load(checkpoint, WeightMode::kAsStored)),
        pool(threads),
        cpu(make_cpu_backend(pool)) {
    Rng rng(5);
    const ModelConfig& config = model->config();
    for (int64_t t = 0; t < kTokens; ++t)
      tokens.push_back(static_cast<int32_t>(rng.uniform() * config.vocab_size));
    for (int64_t i = 0; i < kTokens * config.vocab_size; ++i) mixture.push_back(rng.normal());
    model->prepare(kTokens);
    activations = carve_activations(model->activation_widths(),
                                    {kTokens, kTokens, kTokens, KvType::kF32}, storage);
    keys = Buffer<float>(config.num_key_value_heads * kTokens * config.head_dim);
    values = Buffer<float>(keys.size());
    tape = std::make_unique<TapeBackend>(*cpu, storage.span(), pool);
  }

  double loss() {
    model->embed(*tape, tokens, activations);
    for (int64_t layer = 0; layer < model->config().num_hidden_layers; ++layer) {
      const KvLayer kv{KvType::kF32, keys.data(), values.data(), kTokens};
      model->block(*tape, layer, {0, std::ssize(tokens)}, kv, activations);
    }
    model->head(*tape, 0, std::ssize(tokens), activations);
    double sum = 0;
    for (size_t i = 0; i < mixture.size(); ++i)
      sum += double{mixture[i]} * activations.logits.data[i];
    return sum;
  }
  double loss_only() {
    const double value = loss();
    tape->clear();
    return value;
  }
  void backward() {
    loss();
    const Matrix grad = tape->gradient(activations.logits);
    std::copy(mixture.begin(), mixture.end(), grad.data);
    tape->play_backwards();
  }

  static constexpr int64_t kTokens = 9;
  Checkpoint checkpoint;
  const Architecture& architecture;
  Manifest manifest;
  std::unique_ptr<Model> model;
  ThreadPool pool;
  std::unique_ptr<Backend> cpu;
  std::vector<int32_t> tokens;
  std::vector<float> mixture;
  Buffer<float> storage;
  Activations activations;
  Buffer<float> keys;
  Buffer<float> values;
  std::unique_ptr<TapeBackend> tape;
};

/// Compares the slope along a random direction. A logit is a float sum of about 50 products of
/// magnitude below 8, off by some 1e-6; the mixture of 600 of them by 3e-5. Over 2 * step that is
/// 1e-2 of slopes that are tens; the curvature's share, quadratic in the step, is smaller.
void expect_slope(TapedModel& taped, std::span<float> values, std::span<const float> gradient,
                  const std::string& what) {
  constexpr float kStep = 0x1p-8f;
  Rng rng(99);
  std::vector<float> kept(values.begin(), values.end());
  std::vector<float> direction;
  double expected = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const auto scale = static_cast<float>(rng.uniform() < 0.5 ? -1 : 1);
    direction.push_back(scale / std::sqrt(static_cast<float>(values.size())));
    expected += double{direction.back()} * gradient[i];
  }
  const auto at = [&](float step) {
    for (size_t i = 0; i < values.size(); ++i) values[i] = kept[i] + step * direction[i];
    return taped.loss_only();
  };
  const double slope = (at(kStep) - at(-kStep)) / (2.0 * kStep);
  std::copy(kept.begin(), kept.end(), values.begin());
  if (std::fabs(slope - expected) > 0.02 + 0.01 * std::fabs(slope))
    test::fail(__FILE__, __LINE__,
               what + ": " + std::to_string(expected) + " against " + std::to_string(slope));
}

void check_model(const std::string& name) {
  TapedModel taped(name);
  std::vector<std::unique_ptr<DenseMap>> maps;
  std::vector<std::string> names;
  std::map<std::string, std::vector<float>> norm_gradients;
  for (const BlockSpec& block : taped.manifest.blocks) {
    for (const LinearSpec& spec : block.linears) names.push_back(spec.name);
    for (const std::string& norm : block.norms) norm_gradients[norm] = {};
  }
  names.push_back(taped.manifest.head);
  norm_gradients[taped.manifest.final_norm] = {};
  for (const std::string& linear : names) {
    maps.push_back(std::make_unique<DenseMap>(*taped.model->find_linear(linear), taped.pool));
    taped.tape->set_map(linear, *maps.back());
  }
  for (auto& [norm, gradient] : norm_gradients) {
    const std::vector<float>& values = *taped.model->find_norm(norm);
    gradient.resize(values.size());
    taped.tape->set_norm_gradient(values.data(), gradient);
  }
  taped.backward();
  for (size_t i = 0; i < maps.size(); ++i) {
    expect_slope(taped, maps[i]->values.span(), maps[i]->gradients.span(), names[i]);
    if (!maps[i]->biases.empty())
      expect_slope(taped, maps[i]->biases, maps[i]->bias_gradients, names[i] + " bias");
  }
  for (auto& [norm, gradient] : norm_gradients) {
    // The model's own vector is what the forward pass reads.
    auto* values = const_cast<std::vector<float>*>(taped.model->find_norm(norm));
    expect_slope(taped, *values, gradient, norm);
  }
}

TEST(every_weight_and_norm_of_a_tied_grouped_query_model_has_the_gradient_of_its_loss) {
  check_model("tiny-llama");
}
/// A table of floats with a gradient for each.
class DenseEmbedding final : public EmbeddingMap {
 public:
  explicit DenseEmbedding(const Weight& table)
      : cols(table.shape().cols), values(table.shape().count()), gradients(values.size(), 0.0f) {
    table.unpack_rows(0, {values.data(), table.shape().rows, cols});
  }
  void look_up(std::span<const int32_t> tokens, Matrix out) const override {
    for (int64_t t = 0; t < out.rows; ++t)
      std::copy_n(values.data() + tokens[static_cast<size_t>(t)] * cols, cols, out.row(t));
  }
  void add_gradient(std::span<const int32_t> tokens, ConstMatrix gradient) override {
    for (int64_t t = 0; t < gradient.rows; ++t)
      for (int64_t j = 0; j < cols; ++j)
        gradients.data()[tokens[static_cast<size_t>(t)] * cols + j] += gradient.at(t, j);
  }

  int64_t cols;
  Buffer<float> values;
  Buffer<float> gradients;
};

TEST(an_embedding_has_the_gradient_of_the_loss) {
  TapedModel taped("tiny-llama");
  taped.tokens[3] = taped.tokens[1];  // one that comes twice
  DenseEmbedding embedding(*taped.model->find_linear(taped.manifest.embedding)->parts[0].weight);
  taped.tape->set_embedding(embedding);
  taped.backward();
  expect_slope(taped, embedding.values.span(), embedding.gradients.span(), "embedding");
}

TEST(biases_have_gradients_too) { check_model("tiny-llama3"); }
TEST(gradients_hold_for_mistral) { check_model("tiny-mistral"); }

TEST(the_tape_computes_what_the_cpu_computes) {
  TapedModel taped("tiny-llama");
  const double recorded = taped.loss_only();
  taped.model->embed(*taped.cpu, taped.tokens, taped.activations);
  for (int64_t layer = 0; layer < taped.model->config().num_hidden_layers; ++layer) {
    const KvLayer kv{KvType::kF32, taped.keys.data(), taped.values.data(), TapedModel::kTokens};
    taped.model->block(*taped.cpu, layer, {0, TapedModel::kTokens}, kv, taped.activations);
  }
  taped.model->head(*taped.cpu, 0, TapedModel::kTokens, taped.activations);
  double plain = 0;
  for (size_t i = 0; i < taped.mixture.size(); ++i)
    plain += double{taped.mixture[i]} * taped.activations.logits.data[i];
  EXPECT_NEAR(recorded, plain, 1e-3);
}

TEST(sequences_side_by_side_are_what_each_is_alone) {
  // 9 tokens as one sequence of 4 and one of 5, against runs of their own.
  TapedModel taped("tiny-llama");
  const std::string& name = taped.manifest.blocks[0].linears[0].name;
  DenseMap map(*taped.model->find_linear(name), taped.pool);
  std::fill_n(map.gradients.data(), map.gradients.size(), 0.0f);
  taped.tape->set_map(name, map);
  const int64_t vocab = taped.model->config().vocab_size;
  const std::vector<int32_t> tokens = taped.tokens;
  const std::vector<float> mixture = taped.mixture;
  const auto run = [&](int64_t first, int64_t rows) {
    taped.tokens.assign(tokens.begin() + first, tokens.begin() + first + rows);
    taped.mixture.assign(mixture.begin() + first * vocab, mixture.begin() + (first + rows) * vocab);
    taped.backward();
    const float* logits = taped.activations.logits.data;
    return std::vector<float>(logits, logits + rows * vocab);
  };
  const std::vector<float> first = run(0, 4);
  const std::vector<float> second = run(4, 5);
  const std::vector<float> gradient(map.gradients.data(),
                                    map.gradients.data() + map.gradients.size());
  std::fill_n(map.gradients.data(), map.gradients.size(), 0.0f);
  taped.tape->set_sequences({4, 5});
  const std::vector<float> both = run(0, 9);
  EXPECT(std::equal(first.begin(), first.end(), both.begin()));
  EXPECT(std::equal(second.begin(), second.end(), both.begin() + std::ssize(first)));
  // Nine products per element of magnitude below 100, added in one chain or in two.
  for (size_t i = 0; i < gradient.size(); ++i)
    EXPECT_NEAR(map.gradients[static_cast<int64_t>(i)], gradient[i], 9 * 100 * 0x1p-24);
}

TEST(what_was_recorded_since_a_mark_can_be_undone_or_forgotten_by_itself) {
  TapedModel taped("tiny-llama");
  const Matrix grad = taped.tape->gradient(taped.activations.h);
  const auto record_head = [&] {
    taped.model->head(*taped.tape, 0, TapedModel::kTokens, taped.activations);
  };
  const auto set_gradient = [&] {
    const Matrix of_logits = taped.tape->gradient(taped.activations.logits);
    std::copy(taped.mixture.begin(), taped.mixture.end(), of_logits.data);
  };
  taped.model->embed(*taped.tape, taped.tokens, taped.activations);
  const TapeBackend::Mark mark = taped.tape->mark();
  record_head();
  set_gradient();
  taped.tape->play_backwards_to(mark);
  const std::vector<float> once(grad.data, grad.data + grad.rows * grad.cols);
  EXPECT(once != std::vector<float>(once.size(), 0.0f));
  record_head();
  taped.tape->forget_to(mark);
  record_head();
  set_gradient();
  taped.tape->play_backwards_to(mark);
  for (size_t i = 0; i < once.size(); ++i) EXPECT_EQ(grad.data[i], 2.0f * once[i]);
  taped.tape->play_backwards();  // the embedding
  for (size_t i = 0; i < once.size(); ++i) EXPECT_EQ(grad.data[i], 0.0f);
}

TEST(gradients_are_the_same_bits_on_any_number_of_threads_and_in_every_pass) {
  std::vector<std::vector<float>> results;
  for (const int threads : {1, 3}) {
    TapedModel taped("tiny-llama", threads);
    const std::string& name = taped.manifest.blocks[0].linears[0].name;
    DenseMap map(*taped.model->find_linear(name), taped.pool);
    taped.tape->set_map(name, map);
    for (int pass = 0; pass < 2; ++pass) {
      std::fill_n(map.gradients.data(), map.gradients.size(), 0.0f);
      taped.backward();
      results.emplace_back(map.gradients.data(), map.gradients.data() + map.gradients.size());
    }
  }
  for (const std::vector<float>& result : results) EXPECT(result == results[0]);
}

}  // namespace
}  // namespace subbit
