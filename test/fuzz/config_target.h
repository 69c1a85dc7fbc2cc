// Any config.json is either refused or describes a model with finite, positive sizes, the same
// ones in the config, the manifest and each linear.
#pragma once

#include <cmath>
#include <set>
#include <string>

#include "fuzz/target.h"
#include "io/json.h"
#include "models/llama_config.h"
#include "models/model.h"

namespace subbit::fuzz {

inline void require_consistent(const ModelConfig& config, const Manifest& manifest) {
  for (const int64_t size : {config.hidden_size, config.intermediate_size, config.num_hidden_layers,
                             config.num_attention_heads, config.num_key_value_heads,
                             config.head_dim, config.vocab_size, config.max_position_embeddings}) {
    require(size > 0 && size <= std::numeric_limits<int32_t>::max(), "a size out of range");
  }
  require(config.num_attention_heads % config.num_key_value_heads == 0, "heads that do not group");
  require(manifest.parameters > 0, "no parameters");
  require(static_cast<int64_t>(manifest.blocks.size()) == config.num_hidden_layers,
          "blocks beside num_hidden_layers");
  require((manifest.head == manifest.embedding) == config.tie_word_embeddings, "the head's name");
  std::set<std::string> names;
  for (const BlockSpec& block : manifest.blocks) {
    for (const LinearSpec& linear : block.linears) {
      require(names.insert(linear.name).second, "a linear named twice");
      require(linear.parts.size() == linear.part_rows.size(), "parts without rows");
      int64_t rows = 0;
      for (const int64_t part : linear.part_rows) rows += part;
      require(rows == linear.shape.rows && rows > 0 && linear.shape.cols > 0, "rows of a linear");
    }
  }
}

/// Numbers a forward pass is multiplied by: one infinity among them and every logit is a NaN.
inline void require_finite(const LlamaConfig& config) {
  require(std::isfinite(config.rms_norm_eps) && config.rms_norm_eps > 0, "rms_norm_eps");
  require(static_cast<int64_t>(config.rope_frequencies.size()) * 2 == config.model.head_dim,
          "the number of rotary frequencies");
  for (const double frequency : config.rope_frequencies)
    require(std::isfinite(frequency) && frequency >= 0, "a rotary frequency");
}

inline bool fuzz_config(std::span<const std::byte> input) {
  const std::string_view text(reinterpret_cast<const char*>(input.data()), input.size());
  Json json;
  if (!accepts({ErrorCode::kCorruptFile}, [&] { json = Json::parse(text, "config.json"); }))
    return false;
  return accepts({ErrorCode::kCorruptFile, ErrorCode::kUnsupportedArch}, [&] {
    const Architecture& architecture = find_architecture(json, "config.json");
    const ModelConfig config = architecture.parse_config(json, "config.json");
    require_consistent(config, architecture.manifest(json, "config.json"));
    require_finite(parse_llama_config(json, "config.json"));
  });
}

}  // namespace subbit::fuzz
