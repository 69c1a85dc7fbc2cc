// What the engine knows about an architecture: its config, the linears it is made of, and a
// forward pass in calls on a Backend. One .cc file per architecture fulfils this.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/backend.h"
#include "io/checkpoint.h"

namespace subbit {

/// The facts of config.json that rooms outside `models` need. Hugging Face spelling.
struct ModelConfig {
  std::string model_type;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab_size = 0;
  int64_t max_position_embeddings = 0;
  bool tie_word_embeddings = false;
  std::vector<int32_t> bos_token_ids;
  std::vector<int32_t> eos_token_ids;
};

/// Where a linear's input scale can be moved for free, because whatever makes its input already
/// multiplies each column by something.
struct ScaleFold {
  enum class Into { kNone, kNorm, kRowsOf };
  Into into = Into::kNone;
  std::string target;     // the norm's tensor, or the producing linear's name
  int64_t first_row = 0;  // kRowsOf: columns c of this linear are rows first_row + source(c)
  /// kRowsOf: source(c) = (c / (repeat * width)) * width + c % width. A KV head of `width` rows
  /// feeds `repeat` query heads. Both 1 and `columns` when every column has its own row.
  int64_t repeat = 1;
  int64_t width = 0;
};

/// One linear of a decoder block as the compressor sees it: the checkpoint's matrices that read the
/// same input, stacked by rows.
struct LinearSpec {
  std::string name;                // "model.layers.0.self_attn.qkv_proj"
  std::vector<std::string> parts;  // checkpoint names without ".weight", in row order
  std::vector<int64_t> part_rows;
  Shape shape;
  ScaleFold fold;
};

/// One decoder block, in the order its linears run.
struct BlockSpec {
  std::vector<LinearSpec> linears;
  std::vector<std::string> norms;  // tensor names
};

struct Manifest {
  std::vector<BlockSpec> blocks;
  std::string embedding;  // "model.embed_tokens.weight"
  std::string head;       // equals `embedding` when tied
  std::string final_norm;
  int64_t parameters = 0;  // tied ones counted once
};

/// How many tokens one forward call may carry, and where they stand.
struct Chunk {
  int64_t first_position = 0;
  int64_t tokens = 0;
};

/// The tensors a forward pass writes, carved from one allocation by whoever planned it.
struct Activations {
  Tensor h;       // the residual stream [max_tokens, hidden_size]
  Tensor normed;  // [max_tokens, hidden_size] with row_scale
  Tensor wide;    // [max_tokens, widest intermediate]
  Tensor mixed;   // [max_tokens, widest linear input that is not normed]
  Tensor logits;  // [max_logits, vocab_size]
};

/// Row widths of Activations, for the plan.
struct ActivationWidths {
  int64_t hidden = 0;
  int64_t wide = 0;
  int64_t mixed = 0;
  int64_t vocab = 0;
};

class Model {
 public:
  virtual ~Model() = default;
  virtual const ModelConfig& config() const = 0;
  virtual ActivationWidths activation_widths() const = 0;
  /// Rotary angles and the like for positions below `positions`. Before the first forward call.
  virtual void prepare(int64_t positions) = 0;

  /// a.h = embeddings of `tokens`.
  virtual void embed(Backend& backend, std::span<const int32_t> tokens, Activations& a) const = 0;
  /// a.h = block(a.h).
  virtual void block(Backend& backend, int64_t index, Chunk chunk, const KvLayer& kv,
                     Activations& a) const = 0;
  /// a.logits = head(norm(rows [first_row, first_row + rows) of a.h)).
  virtual void head(Backend& backend, int64_t first_row, int64_t rows, Activations& a) const = 0;
  /// The linear named by the manifest, or the embedding or head by its tensor name; null if none.
  virtual const Linear* find_linear(std::string_view name) const = 0;
  /// The values of a norm by its tensor name; null if none.
  virtual const std::vector<float>* find_norm(std::string_view name) const = 0;

  /// Puts another linear of the same shape, or another norm, in place: how the compressor moves a
  /// model from the original to the compressed, block by block. CHECKs the name and the shape.
  virtual void replace_linear(std::string_view name, Linear linear) = 0;
  virtual void replace_norm(std::string_view name, std::vector<float> values) = 0;
};

/// How weights are held after loading.
enum class WeightMode {
  kAsStored,
  kUnpackedFloat,  // every packed weight expanded to float32: the reference path
};

/// An architecture: what to expect in a checkpoint, and how to build the model from it.
class Architecture {
 public:
  virtual ~Architecture() = default;
  virtual std::string_view model_type() const = 0;
  /// Throws kUnsupportedArch (rope scaling, activation) or kCorruptFile (a missing field).
  virtual ModelConfig parse_config(const Json& config, std::string_view where) const = 0;
  virtual Manifest manifest(const Json& config, std::string_view where) const = 0;
  /// What Model::activation_widths() of such a model will say.
  virtual ActivationWidths activation_widths(const Json& config, std::string_view where) const = 0;
  /// Every tensor of the checkpoint must be claimed, every wanted one present with the right shape;
  /// else kCorruptFile by name. The checkpoint must outlive the model.
  virtual std::unique_ptr<Model> load(const Checkpoint& checkpoint, WeightMode mode) const = 0;
};

/// Looks up config.json's model_type. Throws kUnsupportedArch listing what there is.
const Architecture& find_architecture(const Json& config, std::string_view where);

}  // namespace subbit
