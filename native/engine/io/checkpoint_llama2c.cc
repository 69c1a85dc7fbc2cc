// Reads Karpathy's legacy llama2.c checkpoint: seven int32, then float32 matrices, all layers of
// one kind together. It is shown as the Hugging Face model it is, except that llama2.c rotates
// neighbouring pairs (0,1)(2,3) of a head where the house rotates halves (0,d/2)(1,d/2+1): inside
// each head the rows of wq and wk are copied into that order. Nothing else is copied.
#include <array>
#include <cstring>
#include <initializer_list>

#include "base/buffer.h"
#include "base/error.h"
#include "base/matrix.h"
#include "io/checkpoint_contents.h"
#include "io/mapped_file.h"

namespace subbit {
namespace {

constexpr size_t kHeaderBytes = 28;

struct Llama2cHeader {
  int64_t dim = 0;
  int64_t hidden_dim = 0;
  int64_t n_layers = 0;
  int64_t n_heads = 0;
  int64_t n_kv_heads = 0;
  int64_t vocab_size = 0;
  int64_t seq_len = 0;
  bool tied = false;  // the file spells an untied classifier as a negative vocab_size

  int64_t head_dim() const { return dim / n_heads; }
  int64_t kv_dim() const { return head_dim() * n_kv_heads; }
};

class Llama2cReader {
 public:
  Llama2cReader(std::span<const std::byte> bytes, std::string_view where, CheckpointData data)
      : bytes_(bytes), where_(where), data_(data) {}

  CheckpointContents read() {
    read_header();
    check_size();
    contents_.config = make_config();
    contents_.file_bytes = bytes_.size();
    take_tensors();
    return std::move(contents_);
  }

 private:
  [[noreturn]] void fail(const std::string& what, std::vector<ErrorDetail> details = {}) const {
    details.insert(details.begin(), {"file", std::string(where_)});
    throw Error(ErrorCode::kCorruptFile, std::string(where_) + ": " + what, std::move(details));
  }

  void read_header() {
    refuse_other_formats();
    if (bytes_.size() < kHeaderBytes) {
      fail("too short for a llama2.c checkpoint",
           {{"expected", "28 bytes of header"}, {"actual", std::to_string(bytes_.size())}});
    }
    std::array<int32_t, 7> field = {};
    std::memcpy(field.data(), bytes_.data(), kHeaderBytes);
    const int64_t vocab = field[5];
    h_ = {field[0], field[1], field[2], field[3], field[4], vocab < 0 ? -vocab : vocab,
          field[6], vocab > 0};
    require(h_.dim > 0, "dim is positive", h_.dim);
    require(h_.hidden_dim > 0, "hidden_dim is positive", h_.hidden_dim);
    require(h_.n_layers > 0, "n_layers is positive", h_.n_layers);
    require(h_.n_heads > 0, "n_heads is positive", h_.n_heads);
    require(h_.n_kv_heads > 0, "n_kv_heads is positive", h_.n_kv_heads);
    require(h_.vocab_size > 0, "vocab_size is not zero", h_.vocab_size);
    require(h_.seq_len > 0, "seq_len is positive", h_.seq_len);
    require(h_.dim % h_.n_heads == 0, "dim is a multiple of n_heads", h_.dim);
    require(h_.head_dim() % 2 == 0, "dim / n_heads is even", h_.head_dim());
    require(h_.n_heads % h_.n_kv_heads == 0, "n_heads is a multiple of n_kv_heads", h_.n_kv_heads);
  }

  void require(bool holds, const char* what, int64_t actual) const {
    if (holds) return;
    fail("not a llama2.c checkpoint", {{"expected", std::string("a header in which ") + what},
                                       {"actual", std::to_string(actual)}});
  }

  /// Files that people do hand to a model loader, refused under their own names.
  void refuse_other_formats() const {
    static constexpr std::array<std::pair<std::string_view, std::string_view>, 3> kMagics = {
        {{"GGUF", "a GGUF file"},
         {"24ka", "a llama2.c checkpoint of version 1 or later"},
         {"PK\x03\x04", "a zip file, perhaps a PyTorch checkpoint"}}};
    const std::string_view text(reinterpret_cast<const char*>(bytes_.data()), bytes_.size());
    for (const auto& [magic, name] : kMagics) {
      if (!text.starts_with(magic)) continue;
      throw Error(ErrorCode::kUnsupportedFormat,
                  std::string(where_) + ": this container is not supported",
                  {{"file", std::string(where_)},
                   {"expected", "a directory with config.json, or a legacy llama2.c checkpoint"},
                   {"actual", std::string(name)}});
    }
  }

  /// Every product that take_tensors() makes is a part of this sum, so none overflows after it.
  void check_size() const {
    uint64_t floats = 0;
    bool overflow = false;
    const auto add = [&](std::initializer_list<int64_t> sizes) {
      uint64_t product = 1;
      for (const int64_t size : sizes)
        overflow |= __builtin_mul_overflow(product, static_cast<uint64_t>(size), &product);
      overflow |= __builtin_add_overflow(floats, product, &floats);
    };
    add({h_.vocab_size, h_.dim, h_.tied ? 1 : 2});  // embedding, classifier
    add({h_.n_layers, h_.dim, 2});                  // two norms
    add({h_.n_layers, h_.dim, h_.dim, 2});          // wq, wo
    add({h_.n_layers, h_.kv_dim(), h_.dim, 2});     // wk, wv
    add({h_.n_layers, h_.hidden_dim, h_.dim, 3});   // w1, w2, w3
    add({h_.dim});                                  // the last norm
    add({h_.seq_len, h_.head_dim() / 2, 2});        // rotary tables
    uint64_t expected = 0;
    overflow |= __builtin_mul_overflow(floats, sizeof(float), &expected);
    overflow |= __builtin_add_overflow(expected, kHeaderBytes, &expected);
    if (overflow || expected != bytes_.size()) {
      fail("the file is not as long as its llama2.c header asks",
           {{"expected", overflow ? "2^64 bytes or more" : std::to_string(expected) + " bytes"},
            {"actual", std::to_string(bytes_.size())}});
    }
  }

  Json make_config() const {
    return Json(
        JsonObject{{"architectures", Json(JsonArray{Json(std::string("LlamaForCausalLM"))})},
                   {"model_type", Json(std::string("llama"))},
                   {"hidden_act", Json(std::string("silu"))},
                   {"hidden_size", Json(h_.dim)},
                   {"intermediate_size", Json(h_.hidden_dim)},
                   {"num_hidden_layers", Json(h_.n_layers)},
                   {"num_attention_heads", Json(h_.n_heads)},
                   {"num_key_value_heads", Json(h_.n_kv_heads)},
                   {"head_dim", Json(h_.head_dim())},
                   {"vocab_size", Json(h_.vocab_size)},
                   {"max_position_embeddings", Json(h_.seq_len)},
                   {"rms_norm_eps", Json(1e-5)},  // these two are constants of llama2.c's run.c
                   {"rope_theta", Json(10000.0)},
                   {"rope_scaling", Json()},
                   {"attention_bias", Json(false)},
                   {"mlp_bias", Json(false)},
                   {"tie_word_embeddings", Json(h_.tied)},
                   {"bos_token_id", Json(int64_t{1})},
                   {"eos_token_id", Json(int64_t{2})},
                   {"torch_dtype", Json(std::string("float32"))}});
  }

  /// The next `count` floats of the file.
  std::span<const std::byte> take(int64_t count) {
    const auto taken = bytes_.subspan(position_, static_cast<size_t>(count) * sizeof(float));
    position_ += taken.size();
    return taken;
  }

  void add(std::string name, std::vector<int64_t> shape, std::span<const std::byte> bytes) {
    contents_.tensors.push_back({std::move(name), DType::kF32, std::move(shape), bytes});
  }

  static std::string layer_name(int64_t layer, const char* tensor) {
    return "model.layers." + std::to_string(layer) + "." + tensor + ".weight";
  }

  void take_vectors(const char* tensor) {
    for (int64_t layer = 0; layer < h_.n_layers; ++layer)
      add(layer_name(layer, tensor), {h_.dim}, take(h_.dim));
  }

  void take_matrices(const char* tensor, Shape shape) {
    for (int64_t layer = 0; layer < h_.n_layers; ++layer)
      add(layer_name(layer, tensor), {shape.rows, shape.cols}, take(shape.count()));
  }

  /// Matrices [heads * head_dim, dim] whose rows are reordered: row j of a head's first half is
  /// row 2j of the file's head, row j of the second half is row 2j + 1.
  void take_rotated(const char* tensor, int64_t heads) {
    const int64_t half = h_.head_dim() / 2;
    const size_t row_bytes = static_cast<size_t>(h_.dim) * sizeof(float);
    const int64_t rows = heads * h_.head_dim();
    for (int64_t layer = 0; layer < h_.n_layers; ++layer) {
      const auto stored = take(rows * h_.dim);
      contents_.private_bytes += stored.size();
      if (data_ == CheckpointData::kHeadersOnly) {
        add(layer_name(layer, tensor), {rows, h_.dim}, stored);
        continue;
      }
      const std::byte* from = stored.data();
      auto owned = std::make_shared<Buffer<float>>(rows * h_.dim);
      auto* to = reinterpret_cast<std::byte*>(owned->data());
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t in_head = row % h_.head_dim();
        const int64_t source =
            row - in_head + (in_head < half ? 2 * in_head : 2 * (in_head - half) + 1);
        std::memcpy(to + static_cast<size_t>(row) * row_bytes,
                    from + static_cast<size_t>(source) * row_bytes, row_bytes);
      }
      add(layer_name(layer, tensor), {rows, h_.dim}, std::as_bytes(owned->span()));
      contents_.owners.push_back(std::move(owned));
    }
  }

  /// In the order of the file.
  void take_tensors() {
    position_ = kHeaderBytes;
    const auto embedding = take(h_.vocab_size * h_.dim);
    add("model.embed_tokens.weight", {h_.vocab_size, h_.dim}, embedding);
    take_vectors("input_layernorm");
    take_rotated("self_attn.q_proj", h_.n_heads);
    take_rotated("self_attn.k_proj", h_.n_kv_heads);
    take_matrices("self_attn.v_proj", {h_.kv_dim(), h_.dim});
    take_matrices("self_attn.o_proj", {h_.dim, h_.dim});
    take_vectors("post_attention_layernorm");
    take_matrices("mlp.gate_proj", {h_.hidden_dim, h_.dim});
    take_matrices("mlp.down_proj", {h_.dim, h_.hidden_dim});
    take_matrices("mlp.up_proj", {h_.hidden_dim, h_.dim});
    add("model.norm.weight", {h_.dim}, take(h_.dim));
    take(h_.seq_len * (h_.head_dim() / 2) * 2);  // rotary tables, which the model makes itself
    if (!h_.tied) add("lm_head.weight", {h_.vocab_size, h_.dim}, take(h_.vocab_size * h_.dim));
  }

  std::span<const std::byte> bytes_;
  std::string_view where_;
  CheckpointData data_;
  Llama2cHeader h_;
  size_t position_ = 0;
  CheckpointContents contents_;
};

}  // namespace

CheckpointContents parse_llama2c(std::span<const std::byte> bytes, std::string_view where,
                                 CheckpointData data) {
  return Llama2cReader(bytes, where, data).read();
}

CheckpointContents read_llama2c(const std::string& path, CheckpointData data) {
  auto file = std::make_shared<MappedFile>(path);
  CheckpointContents contents = parse_llama2c(file->bytes(), path, data);
  if (data == CheckpointData::kHeadersOnly) file->forbid(kHeaderBytes);
  contents.files.push_back(file);
  contents.owners.push_back(std::move(file));
  return contents;
}

}  // namespace subbit
