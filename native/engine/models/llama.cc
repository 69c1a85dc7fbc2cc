// The forward pass of the Llama family (Touvron et al. 2023), in calls on a Backend: per block
//
//   x = rms_norm(h);  q, k, v = x Wqkv;  rope;  h += attention(q, k, v) Wo
//   x = rms_norm(h);  g, u = x Wgate_up;        h += (silu(g) * u) Wdown
//
// Mistral is the same computation with other configs.
#include "models/llama.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "models/linear_loader.h"
#include "models/llama_config.h"
#include "models/rope.h"
#include "models/tensor_claims.h"

namespace subbit {
namespace {

struct LlamaBlock {
  std::string input_norm_name;
  std::string post_attention_norm_name;
  std::vector<float> input_norm;
  std::vector<float> post_attention_norm;
  Linear qkv;
  Linear o;
  Linear gate_up;
  Linear down;
};

class LlamaModel final : public Model {
 public:
  LlamaModel(const Checkpoint& checkpoint, WeightMode mode);

  const ModelConfig& config() const override { return config_.model; }
  ActivationWidths activation_widths() const override { return llama_widths(config_); }
  void prepare(int64_t positions) override {
    rope_ = make_rope_table(config_.rope_frequencies, positions);
  }
  void embed(Backend& backend, std::span<const int32_t> tokens, Activations& a) const override {
    const auto rows = static_cast<int64_t>(tokens.size());
    backend.embed(*embedding_.parts[0].weight, tokens, a.h.rows_from(0, rows));
  }
  void block(Backend& backend, int64_t index, Chunk chunk, const KvLayer& kv,
             Activations& a) const override;
  void head(Backend& backend, int64_t first_row, int64_t rows, Activations& a) const override {
    const Tensor normed = a.normed.rows_from(0, rows);
    backend.rms_norm(a.h.rows_from(first_row, rows), final_norm_, config_.rms_norm_eps, normed);
    backend.linear(head_, normed, a.logits.rows_from(0, rows));
  }
  const Linear* find_linear(std::string_view name) const override;
  const std::vector<float>* find_norm(std::string_view name) const override;
  void replace_linear(std::string_view name, Linear linear) override;
  void replace_norm(std::string_view name, std::vector<float> values) override;

 private:
  void load_embeddings(const Manifest& manifest, WeightMode mode, TensorClaims& claims);
  LlamaBlock load_block(const BlockSpec& spec, WeightMode mode, TensorClaims& claims) const;
  void attention(Backend& backend, const LlamaBlock& block, Chunk chunk, const KvLayer& kv,
                 Activations& a) const;
  void mlp(Backend& backend, const LlamaBlock& block, Chunk chunk, Activations& a) const;

  LlamaConfig config_;
  std::string final_norm_name_;
  std::vector<LlamaBlock> blocks_;
  std::vector<float> final_norm_;
  Linear embedding_;
  Linear head_;
  RopeTable rope_;
};

LlamaModel::LlamaModel(const Checkpoint& checkpoint, WeightMode mode)
    : config_(parse_llama_config(checkpoint.config(), checkpoint.path())) {
  check_quantization(checkpoint.config(), checkpoint.path());
  const Manifest manifest = llama_manifest(config_);
  TensorClaims claims(checkpoint);
  load_embeddings(manifest, mode, claims);
  for (const BlockSpec& spec : manifest.blocks) blocks_.push_back(load_block(spec, mode, claims));
  final_norm_name_ = manifest.final_norm;
  final_norm_ = read_vector(claims.claim(manifest.final_norm), config_.model.hidden_size);
  claims.finish();
}

void LlamaModel::load_embeddings(const Manifest& manifest, WeightMode mode, TensorClaims& claims) {
  const Shape shape = {config_.model.vocab_size, config_.model.hidden_size};
  const auto as_linear = [&](const std::string& name, std::shared_ptr<const Weight> weight) {
    if (weight == nullptr) {
      throw Error(ErrorCode::kCorruptFile, "no weight for " + name, {{"tensor", name}});
    }
    Linear linear;
    linear.name = name;
    linear.shape = shape;
    linear.parts.push_back({std::move(weight), {}});
    return linear;
  };
  auto table = load_weight(manifest.embedding, shape, mode, claims);
  const bool tied = config_.model.tie_word_embeddings;
  // A tied matrix may be stored under either name, or under both.
  auto head = tied && table != nullptr ? table : load_weight("lm_head.weight", shape, mode, claims);
  if (tied && table != nullptr) claims.claim_if_present("lm_head.weight");
  if (tied && table == nullptr) table = head;
  embedding_ = as_linear(manifest.embedding, table);
  head_ = as_linear(manifest.head, head);
}

LlamaBlock LlamaModel::load_block(const BlockSpec& spec, WeightMode mode,
                                  TensorClaims& claims) const {
  const auto attention_bias = config_.attention_bias ? BiasRule::kExpected : BiasRule::kNone;
  const auto mlp_bias = config_.mlp_bias ? BiasRule::kExpected : BiasRule::kNone;
  LlamaBlock block;
  block.input_norm_name = spec.norms[0];
  block.post_attention_norm_name = spec.norms[1];
  block.input_norm = read_vector(claims.claim(spec.norms[0]), config_.model.hidden_size);
  block.post_attention_norm = read_vector(claims.claim(spec.norms[1]), config_.model.hidden_size);
  block.qkv = load_linear(spec.linears[0], attention_bias, mode, claims);
  block.o = load_linear(spec.linears[1], attention_bias, mode, claims);
  block.gate_up = load_linear(spec.linears[2], mlp_bias, mode, claims);
  block.down = load_linear(spec.linears[3], mlp_bias, mode, claims);
  return block;
}

void LlamaModel::block(Backend& backend, int64_t index, Chunk chunk, const KvLayer& kv,
                       Activations& a) const {
  CHECK(chunk.first_position + chunk.tokens <= rope_.positions);
  const LlamaBlock& block = blocks_[static_cast<size_t>(index)];
  attention(backend, block, chunk, kv, a);
  mlp(backend, block, chunk, a);
}

void LlamaModel::attention(Backend& backend, const LlamaBlock& block, Chunk chunk,
                           const KvLayer& kv, Activations& a) const {
  const ModelConfig& c = config_.model;
  const Tensor h = a.h.rows_from(0, chunk.tokens);
  const Tensor x = a.normed.rows_from(0, chunk.tokens);
  const Tensor wide = a.wide.rows_from(0, chunk.tokens);
  const Tensor q = wide.columns(0, config_.q_rows());
  const Tensor k = wide.columns(config_.q_rows(), config_.kv_rows());
  const Tensor v = wide.columns(config_.q_rows() + config_.kv_rows(), config_.kv_rows());
  const Tensor mixed = a.mixed.rows_from(0, chunk.tokens).columns(0, config_.q_rows());

  backend.rms_norm(h, block.input_norm, config_.rms_norm_eps, x);
  backend.linear(block.qkv, x, wide.columns(0, config_.q_rows() + 2 * config_.kv_rows()));
  backend.rope(rope_, chunk.first_position, c.num_attention_heads, q);
  backend.rope(rope_, chunk.first_position, c.num_key_value_heads, k);
  backend.attention({c.num_attention_heads, c.num_key_value_heads, c.head_dim}, q, k, v, kv,
                    chunk.first_position, mixed);
  backend.linear_add(block.o, mixed, h);
}

void LlamaModel::mlp(Backend& backend, const LlamaBlock& block, Chunk chunk, Activations& a) const {
  const int64_t ffn = config_.model.intermediate_size;
  const Tensor h = a.h.rows_from(0, chunk.tokens);
  const Tensor x = a.normed.rows_from(0, chunk.tokens);
  const Tensor wide = a.wide.rows_from(0, chunk.tokens);
  const Tensor mixed = a.mixed.rows_from(0, chunk.tokens).columns(0, ffn);

  backend.rms_norm(h, block.post_attention_norm, config_.rms_norm_eps, x);
  backend.linear(block.gate_up, x, wide.columns(0, 2 * ffn));
  backend.swiglu(wide.columns(0, ffn), wide.columns(ffn, ffn), mixed);
  backend.linear_add(block.down, mixed, h);
}

const Linear* LlamaModel::find_linear(std::string_view name) const {
  if (name == head_.name) return &head_;
  if (name == embedding_.name) return &embedding_;
  for (const LlamaBlock& block : blocks_) {
    for (const Linear* linear : {&block.qkv, &block.o, &block.gate_up, &block.down}) {
      if (linear->name == name) return linear;
    }
  }
  return nullptr;
}

const std::vector<float>* LlamaModel::find_norm(std::string_view name) const {
  if (name == final_norm_name_) return &final_norm_;
  for (const LlamaBlock& block : blocks_) {
    if (name == block.input_norm_name) return &block.input_norm;
    if (name == block.post_attention_norm_name) return &block.post_attention_norm;
  }
  return nullptr;
}

void LlamaModel::replace_linear(std::string_view name, Linear linear) {
  // The model owns every linear it hands out, so the constness of find_linear may be taken back.
  auto* place = const_cast<Linear*>(find_linear(name));
  CHECK(place != nullptr && place->shape == linear.shape);
  linear.name = place->name;
  if (place == &head_ && head_.name == embedding_.name) embedding_ = linear;  // tied
  *place = std::move(linear);
}

void LlamaModel::replace_norm(std::string_view name, std::vector<float> values) {
  auto* place = const_cast<std::vector<float>*>(find_norm(name));
  CHECK(place != nullptr && place->size() == values.size());
  *place = std::move(values);
}

class LlamaArchitecture final : public Architecture {
 public:
  explicit LlamaArchitecture(std::string_view model_type) : model_type_(model_type) {}

  std::string_view model_type() const override { return model_type_; }
  ModelConfig parse_config(const Json& config, std::string_view where) const override {
    return parse_llama_config(config, where).model;
  }
  Manifest manifest(const Json& config, std::string_view where) const override {
    return llama_manifest(parse_llama_config(config, where));
  }
  ActivationWidths activation_widths(const Json& config, std::string_view where) const override {
    return llama_widths(parse_llama_config(config, where));
  }
  std::unique_ptr<Model> load(const Checkpoint& checkpoint, WeightMode mode) const override {
    return std::make_unique<LlamaModel>(checkpoint, mode);
  }

 private:
  std::string_view model_type_;
};

}  // namespace

const Architecture& llama_architecture() {
  static const LlamaArchitecture architecture("llama");
  return architecture;
}

const Architecture& mistral_architecture() {
  static const LlamaArchitecture architecture("mistral");
  return architecture;
}

}  // namespace subbit
