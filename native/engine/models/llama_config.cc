// Config and manifest of the Llama family.
#include "models/llama_config.h"

#include <algorithm>

#include "models/config_reader.h"
#include "models/rope.h"

namespace subbit {
namespace {

constexpr IntRange kWidth = {1, 1 << 20};
constexpr IntRange kHeads = {1, 1 << 14};
constexpr IntRange kPositions = {1, 1 << 24};

void read_heads(const ConfigReader& in, ModelConfig& model) {
  model.num_attention_heads = in.integer("num_attention_heads", kHeads);
  model.num_key_value_heads =
      in.integer_or("num_key_value_heads", kHeads, model.num_attention_heads);
  if (model.num_attention_heads % model.num_key_value_heads != 0) {
    in.corrupt("num_key_value_heads", "a divisor of num_attention_heads",
               in.find("num_key_value_heads"));
  }
  if (in.find("head_dim") == nullptr && model.hidden_size % model.num_attention_heads != 0) {
    in.corrupt("num_attention_heads", "a divisor of hidden_size", in.find("num_attention_heads"));
  }
  model.head_dim =
      in.integer_or("head_dim", {1, 1 << 12}, model.hidden_size / model.num_attention_heads);
  if (model.head_dim % 2 != 0) in.corrupt("head_dim", "an even number", in.find("head_dim"));
}

void refuse_what_is_not_computed(const ConfigReader& in) {
  const std::string activation = in.string_or("hidden_act", "silu");
  if (activation != "silu") in.unsupported("hidden_act", "silu", activation);
}

LinearSpec stacked(const std::string& name, const std::string& prefix,
                   const std::vector<std::pair<std::string, int64_t>>& parts, int64_t cols) {
  LinearSpec spec;
  spec.name = prefix + name;
  spec.shape.cols = cols;
  for (const auto& [part, rows] : parts) {
    spec.parts.push_back(prefix + part);
    spec.part_rows.push_back(rows);
    spec.shape.rows += rows;
  }
  return spec;
}

BlockSpec block_spec(const LlamaConfig& c, int64_t index) {
  const std::string prefix = "model.layers." + std::to_string(index) + ".";
  const int64_t hidden = c.model.hidden_size;
  const int64_t ffn = c.model.intermediate_size;
  BlockSpec block;
  block.norms = {prefix + "input_layernorm.weight", prefix + "post_attention_layernorm.weight"};

  LinearSpec qkv = stacked("self_attn.qkv_proj", prefix,
                           {{"self_attn.q_proj", c.q_rows()},
                            {"self_attn.k_proj", c.kv_rows()},
                            {"self_attn.v_proj", c.kv_rows()}},
                           hidden);
  qkv.fold = {ScaleFold::Into::kNorm, block.norms[0], 0, 1, 0};

  LinearSpec o = stacked("self_attn.o_proj", prefix, {{"self_attn.o_proj", hidden}}, c.q_rows());
  const int64_t repeat = c.model.num_attention_heads / c.model.num_key_value_heads;
  // Attention mixes positions, not columns: column c of its output is a mix of one row of v.
  o.fold = {ScaleFold::Into::kRowsOf, qkv.name, c.q_rows() + c.kv_rows(), repeat, c.model.head_dim};

  LinearSpec gate_up =
      stacked("mlp.gate_up_proj", prefix, {{"mlp.gate_proj", ffn}, {"mlp.up_proj", ffn}}, hidden);
  gate_up.fold = {ScaleFold::Into::kNorm, block.norms[1], 0, 1, 0};

  LinearSpec down = stacked("mlp.down_proj", prefix, {{"mlp.down_proj", hidden}}, ffn);
  down.fold = {ScaleFold::Into::kRowsOf, gate_up.name, ffn, 1, ffn};

  block.linears = {std::move(qkv), std::move(o), std::move(gate_up), std::move(down)};
  return block;
}

}  // namespace

LlamaConfig parse_llama_config(const Json& config, std::string_view where) {
  const ConfigReader in(config, where);
  refuse_what_is_not_computed(in);
  LlamaConfig c;
  c.model.model_type = in.string_or("model_type", "llama");
  c.model.hidden_size = in.integer("hidden_size", kWidth);
  c.model.intermediate_size = in.integer("intermediate_size", kWidth);
  c.model.num_hidden_layers = in.integer("num_hidden_layers", {1, 1024});
  c.model.vocab_size = in.integer("vocab_size", {1, 1 << 24});
  c.model.max_position_embeddings = in.integer_or("max_position_embeddings", kPositions, 2048);
  // Within its window, a sliding-window model is an ordinary one.
  const int64_t window = in.integer_or("sliding_window", kPositions, kPositions.most);
  c.model.max_position_embeddings = std::min(c.model.max_position_embeddings, window);
  read_heads(in, c.model);
  c.model.tie_word_embeddings = in.boolean_or("tie_word_embeddings", false);
  c.model.bos_token_ids = in.token_ids("bos_token_id");
  c.model.eos_token_ids = in.token_ids("eos_token_id");
  c.rms_norm_eps = static_cast<float>(in.positive_or("rms_norm_eps", 1e-6));
  c.attention_bias = in.boolean_or("attention_bias", false);
  c.mlp_bias = in.boolean_or("mlp_bias", false);
  c.rope_frequencies = rope_frequencies(in, c.model.head_dim);
  return c;
}

ActivationWidths llama_widths(const LlamaConfig& c) {
  const int64_t ffn = c.model.intermediate_size;
  return {c.model.hidden_size, std::max(c.q_rows() + 2 * c.kv_rows(), 2 * ffn),
          std::max(c.q_rows(), ffn), c.model.vocab_size};
}

Manifest llama_manifest(const LlamaConfig& c) {
  Manifest manifest;
  manifest.embedding = "model.embed_tokens.weight";
  manifest.head = c.model.tie_word_embeddings ? manifest.embedding : "lm_head.weight";
  manifest.final_norm = "model.norm.weight";
  const int64_t hidden = c.model.hidden_size;
  manifest.parameters =
      c.model.vocab_size * hidden * (c.model.tie_word_embeddings ? 1 : 2) + hidden;
  for (int64_t i = 0; i < c.model.num_hidden_layers; ++i) {
    manifest.blocks.push_back(block_spec(c, i));
    for (const LinearSpec& linear : manifest.blocks.back().linears) {
      manifest.parameters += linear.shape.count();
    }
    manifest.parameters += 2 * hidden;
    if (c.attention_bias) manifest.parameters += c.q_rows() + 2 * c.kv_rows() + hidden;
    if (c.mlp_bias) manifest.parameters += 2 * c.model.intermediate_size + hidden;
  }
  return manifest;
}

}  // namespace subbit
