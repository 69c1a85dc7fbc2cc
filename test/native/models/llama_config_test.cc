// What the Llama family refuses, and what it derives, when it reads config.json and the tensors.
#include "models/llama_config.h"

#include <filesystem>
#include <fstream>
#include <sstream>

#include "models/model.h"
#include "support/golden.h"
#include "support/test.h"

namespace subbit {
namespace {

namespace fs = std::filesystem;

const char* const kBase =
    R"("model_type":"llama","hidden_size":32,"intermediate_size":44,"num_hidden_layers":2,)"
    R"("num_attention_heads":4,"vocab_size":67)";

LlamaConfig parse(const std::string& more) {
  const std::string text = "{" + std::string(kBase) + (more.empty() ? "" : "," + more) + "}";
  return parse_llama_config(Json::parse(text, "config.json"), "config.json");
}

TEST(missing_fields_of_a_config_get_their_usual_values) {
  const LlamaConfig c = parse("");
  EXPECT_EQ(c.model.head_dim, 8);
  EXPECT_EQ(c.model.num_key_value_heads, 4);
  EXPECT_EQ(c.model.max_position_embeddings, 2048);
  EXPECT(!c.model.tie_word_embeddings && !c.attention_bias && !c.mlp_bias);
  EXPECT_NEAR(c.rope_frequencies[1], std::pow(10000.0, -0.25), 1e-12);
}

TEST(a_config_out_of_range_is_refused_with_the_field_and_both_values) {
  const auto corrupt = ErrorCode::kCorruptFile;
  const auto replaced = [](const std::string& from, const std::string& to) {
    std::string text = "{" + std::string(kBase) + "}";
    text.replace(text.find(from), from.size(), to);
    return parse_llama_config(Json::parse(text, "c"), "c");
  };
  EXPECT_ERROR(corrupt, "hidden_size", replaced("\"hidden_size\":32", "\"hidden_size\":0"));
  EXPECT_ERROR(corrupt, "actual -3", replaced("\"hidden_size\":32", "\"hidden_size\":-3"));
  EXPECT_ERROR(corrupt, "hidden_size", replaced("\"hidden_size\":32", "\"hidden_size\":9e9"));
  EXPECT_ERROR(corrupt, "vocab_size", replaced("\"vocab_size\":67", "\"vocab_size\":\"67\""));
  EXPECT_ERROR(corrupt, "num_hidden_layers", replaced("\"num_hidden_layers\":2", "\"x\":2"));
  EXPECT_ERROR(corrupt, "divisor", parse("\"num_key_value_heads\":3"));
  EXPECT_ERROR(corrupt, "even", parse("\"head_dim\":7"));
  EXPECT_ERROR(corrupt, "rms_norm_eps", parse("\"rms_norm_eps\":-1"));
  EXPECT_ERROR(corrupt, "tie_word_embeddings", parse("\"tie_word_embeddings\":1"));
}

TEST(what_is_not_computed_is_refused_by_name) {
  const auto arch = ErrorCode::kUnsupportedArch;
  EXPECT_ERROR(arch, "actual gelu", parse("\"hidden_act\":\"gelu\""));
  EXPECT_ERROR(arch, "actual yarn", parse(R"("rope_scaling":{"rope_type":"yarn","factor":2})"));
  EXPECT_ERROR(arch, "actual dynamic", parse(R"("rope_scaling":{"type":"dynamic","factor":2})"));
  EXPECT_ERROR(arch, "actual phi",
               find_architecture(Json::parse(R"({"model_type":"phi"})", "c"), "c"));
}

TEST(rope_scalings_that_lack_a_number_are_refused) {
  EXPECT_ERROR(ErrorCode::kCorruptFile, "factor", parse(R"("rope_scaling":{"type":"linear"})"));
  EXPECT_ERROR(ErrorCode::kCorruptFile, "low_freq_factor",
               parse(R"("rope_scaling":{"rope_type":"llama3","factor":8})"));
}

TEST(a_sliding_window_bounds_the_context) {
  EXPECT_EQ(
      parse("\"max_position_embeddings\":512,\"sliding_window\":64").model.max_position_embeddings,
      64);
  EXPECT_EQ(parse("\"sliding_window\":null").model.max_position_embeddings, 2048);
}

TEST(the_manifest_stacks_what_reads_the_same_input_and_knows_where_scales_fold) {
  const Manifest manifest =
      llama_manifest(parse("\"num_key_value_heads\":2,\"tie_word_embeddings\":true"));
  EXPECT_EQ(manifest.blocks.size(), size_t{2});
  const auto& linears = manifest.blocks[1].linears;
  EXPECT_EQ(linears[0].name, std::string("model.layers.1.self_attn.qkv_proj"));
  EXPECT(linears[0].shape == (Shape{32 + 16 + 16, 32}));
  EXPECT(linears[1].fold.into == ScaleFold::Into::kRowsOf && linears[1].fold.first_row == 48);
  EXPECT_EQ(linears[1].fold.repeat, 2);
  EXPECT(linears[3].fold.into == ScaleFold::Into::kRowsOf && linears[3].fold.first_row == 44);
  const int64_t block = 64 * 32 + 32 * 32 + 88 * 32 + 32 * 44 + 64;
  EXPECT_EQ(manifest.parameters, 67 * 32 + 32 + 2 * block);
}

/// A copy of a fixture whose config.json went through `edit`.
std::string edited_fixture(const std::string& name, const std::function<void(std::string&)>& edit) {
  const fs::path folder = fs::path(test::temporary_directory()) / name;
  fs::copy(test::fixture("models/" + name), folder);
  std::ifstream in(folder / "config.json");
  std::stringstream text;
  text << in.rdbuf();
  std::string config = text.str();
  edit(config);
  std::ofstream(folder / "config.json") << config;
  return folder.string();
}

void load(const std::string& folder) { test::Runner runner(folder); }

TEST(a_tensor_nobody_claims_is_an_error_by_name) {
  const auto folder = edited_fixture("tiny-llama", [](std::string& config) {
    const std::string from = "\"num_hidden_layers\": 2";
    config.replace(config.find(from), from.size(), "\"num_hidden_layers\": 1");
  });
  EXPECT_ERROR(ErrorCode::kCorruptFile, "model.layers.1.", load(folder));
}

TEST(a_missing_tensor_and_a_wrong_shape_are_errors_by_name) {
  const auto more = edited_fixture("tiny-llama", [](std::string& config) {
    const std::string from = "\"num_hidden_layers\": 2";
    config.replace(config.find(from), from.size(), "\"num_hidden_layers\": 3");
  });
  EXPECT_ERROR(ErrorCode::kCorruptFile, "model.layers.2.input_layernorm.weight", load(more));
  const auto wider = edited_fixture("tiny-llama", [](std::string& config) {
    const std::string from = "\"intermediate_size\": 44";
    config.replace(config.find(from), from.size(), "\"intermediate_size\": 45");
  });
  EXPECT_ERROR(ErrorCode::kCorruptFile, "expected 45 x 32, actual 44 x 32", load(wider));
}

TEST(a_model_quantized_by_another_tool_or_layout_is_refused_by_name) {
  const auto with = [](const std::string& quantization) {
    return edited_fixture("tiny-llama", [&](std::string& config) {
      config.insert(config.find('{') + 1, "\"quantization_config\":" + quantization + ",");
    });
  };
  EXPECT_ERROR(ErrorCode::kUnsupportedFormat, "actual gptq",
               load(with(R"({"quant_method":"gptq"})")));
  EXPECT_ERROR(ErrorCode::kUnsupportedFormat, "actual 2",
               load(with(R"({"quant_method":"subbit","layout_version":2})")));
}

}  // namespace
}  // namespace subbit
