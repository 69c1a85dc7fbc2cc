// Runs a model over one sequence: tokens in, logits out. Prefill goes in chunks, decode token by
// token; both are the same call. Knows no sessions, no text and no sampling.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <span>

#include "base/arena.h"
#include "base/buffer.h"
#include "decoding/kv_cache.h"
#include "memory/plan_memory.h"
#include "models/model.h"

namespace subbit {

struct DecoderOptions {
  int64_t context_length = 0;
  KvType kv_cache = KvType::kF16;
  /// Where activations and all scratch of a forward call lie; must outlive decoder and back end.
  /// Null: on the heap.
  Arena* arena = nullptr;
};

enum class LogitRows { kLast, kAll };

class Decoder {
 public:
  /// Most tokens of one forward call: enough for the GEMM to run at its peak, few enough that the
  /// activations stay in the second-level cache of small models and an abort is prompt.
  static constexpr int64_t kChunkTokens = 128;
  /// Most rows of logits at once: a 128k vocabulary takes 16 MiB.
  static constexpr int64_t kLogitRows = 32;

  /// What such a decoder's memory follows from.
  static MemoryOptions memory_options(int64_t context_length, KvType kv_cache);

  /// `model` and `backend` must outlive the decoder. Calls model.prepare().
  Decoder(Model& model, Backend& backend, const DecoderOptions& options);
  ~Decoder();
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  int64_t position() const { return position_; }
  int64_t context_length() const { return options_.context_length; }
  /// Forgets every token from `position` on.
  void rewind(int64_t position);
  /// Writes all of the KV cache, whose first `position` positions then count as computed. Throws
  /// kContextOverflow, kAborted (the position is then zero).
  void fill(int64_t position, const std::atomic<bool>& abort);
  /// What attention reads of the KV cache for each position that it looks back on, all layers.
  double kv_bytes_per_position() const {
    return static_cast<double>(cache_.bytes()) / static_cast<double>(options_.context_length);
  }
  /// Gives back what no token held needs: the KV cache behind the position, free scratch. Returns
  /// the bytes.
  uint64_t trim();
  /// Bytes of the keys and values of the tokens held.
  uint64_t kv_cache_used() const { return cache_.bytes_of(position_); }

  /// Gets logits [rows, vocab] for tokens [first, first + rows) of the call; they are scratch and
  /// end with the callback.
  using OnLogits = std::function<void(int64_t first, Matrix logits)>;

  /// Appends `tokens` and computes. Throws kContextOverflow, kInvalidOption (a token id outside
  /// the vocabulary), kAborted (between blocks; the position is then back where it was).
  void forward(std::span<const int32_t> tokens, LogitRows rows, const std::atomic<bool>& abort,
               const OnLogits& on_logits);
  /// The same, and gives the likeliest token after them: the first of the largest logits, which
  /// only the back end looks at. Throws kNonFinite besides.
  int32_t next(std::span<const int32_t> tokens, const std::atomic<bool>& abort);

 private:
  /// Appends `tokens` by chunks; after each, on_chunk(its first token, how many, whether the last).
  template <typename OnChunk>
  void run(std::span<const int32_t> tokens, const std::atomic<bool>& abort,
           const OnChunk& on_chunk);
  void check(std::span<const int32_t> tokens) const;
  void head(int64_t first_row, int64_t rows, int64_t first_token, const OnLogits& on_logits);

  Model& model_;
  Backend& backend_;
  MemoryOptions options_;
  Arena* arena_;
  KvCache cache_;
  Buffer<float> storage_;
  Activations activations_;
  int64_t position_ = 0;
};

/// Carves Activations for `tokens` rows and `logit_rows` rows of logits from one allocation.
Activations carve_activations(const ActivationWidths& widths, const MemoryOptions& options,
                              Buffer<float>& storage);

}  // namespace subbit
