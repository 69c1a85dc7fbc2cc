// What config.json says of a Llama-family model, checked.
#pragma once

#include <string>
#include <vector>

#include "io/json.h"
#include "models/model.h"

namespace subbit {

struct LlamaConfig {
  ModelConfig model;
  float rms_norm_eps = 0;
  bool attention_bias = false;
  bool mlp_bias = false;
  std::vector<double> rope_frequencies;  // [head_dim / 2]

  int64_t q_rows() const { return model.num_attention_heads * model.head_dim; }
  int64_t kv_rows() const { return model.num_key_value_heads * model.head_dim; }
};

/// Throws kCorruptFile (a field missing or out of range) or kUnsupportedArch (an activation, a rope
/// scaling or a head layout this build does not compute).
LlamaConfig parse_llama_config(const Json& config, std::string_view where);

/// The linears, norms and matrices such a model is made of.
Manifest llama_manifest(const LlamaConfig& config);

/// Row widths of its activations.
ActivationWidths llama_widths(const LlamaConfig& config);

}  // namespace subbit
