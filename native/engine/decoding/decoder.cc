// Prefill and decode.
#include "decoding/decoder.h"

#include <algorithm>
#include <string>

#include "base/check.h"
#include "base/error.h"

namespace subbit {
namespace {

/// How many of `left` rows to take next: `most`, but never so that a single row is left over. One
/// row takes the matrix-vector path, whose float sums differ from the GEMM's in the last bit; a
/// result must not depend on where a sequence happened to be cut.
int64_t next_piece(int64_t left, int64_t most) {
  if (left == most + 1 && most > 2) return most - 1;
  return std::min(left, most);
}

}  // namespace

Activations carve_activations(const ActivationWidths& widths, const MemoryOptions& options,
                              Buffer<float>& storage) {
  const int64_t rows = options.chunk_tokens;
  const int64_t row = 2 * widths.hidden + widths.wide + widths.mixed + 1;
  storage = Buffer<float>(rows * row + options.logit_rows * widths.vocab);
  float* next = storage.data();
  const auto take = [&next](int64_t count, int64_t cols) {
    const Tensor tensor = {next, count, cols, cols, nullptr};
    next += count * cols;
    return tensor;
  };
  Activations a;
  a.h = take(rows, widths.hidden);
  a.normed = take(rows, widths.hidden);
  a.wide = take(rows, widths.wide);
  a.mixed = take(rows, widths.mixed);
  a.normed.row_scale = take(rows, 1).data;
  a.logits = take(options.logit_rows, widths.vocab);
  return a;
}

MemoryOptions Decoder::memory_options(int64_t context_length, KvType kv_cache) {
  return {context_length, std::min(kChunkTokens, context_length),
          std::min(kLogitRows, context_length), kv_cache};
}

Decoder::Decoder(Model& model, Backend& backend, const DecoderOptions& options)
    : model_(model),
      backend_(backend),
      options_(memory_options(options.context_length, options.kv_cache)),
      arena_(options.arena),
      cache_(model.config(), options_) {
  model.prepare(options.context_length);
  const ArenaScope scope(arena_);
  activations_ = carve_activations(model.activation_widths(), options_, storage_);
  backend_.share(std::as_bytes(storage_.span()));
  backend_.share(cache_.memory());
}

Decoder::~Decoder() {
  backend_.unshare(std::as_bytes(storage_.span()));
  backend_.unshare(cache_.memory());
}

void Decoder::rewind(int64_t position) {
  CHECK(position >= 0 && position <= position_);
  position_ = position;
}

void Decoder::fill(int64_t position, const std::atomic<bool>& abort) {
  position_ = 0;
  if (position < 0 || position > options_.context_length) {
    throw Error(ErrorCode::kContextOverflow, "the context cannot be filled so far",
                {{"expected", "0 to " + std::to_string(options_.context_length) + " tokens"},
                 {"actual", std::to_string(position)}});
  }
  for (int64_t layer = 0; layer < model_.config().num_hidden_layers; ++layer) {
    if (abort.load(std::memory_order_relaxed)) throw Error(ErrorCode::kAborted, "aborted");
    cache_.fill(layer);
  }
  position_ = position;
}

uint64_t Decoder::trim() {
  return cache_.trim(position_) + (arena_ == nullptr ? 0 : arena_->trim());
}

void Decoder::check(std::span<const int32_t> tokens) const {
  const auto count = static_cast<int64_t>(tokens.size());
  if (count > options_.context_length - position_) {
    throw Error(ErrorCode::kContextOverflow, "the context is full",
                {{"expected", "at most " + std::to_string(options_.context_length) + " tokens"},
                 {"actual", std::to_string(position_ + count)}});
  }
  const int64_t vocab = model_.config().vocab_size;
  for (const int32_t token : tokens) {
    if (token >= 0 && token < vocab) continue;
    throw Error(
        ErrorCode::kInvalidOption, "a token id outside the vocabulary",
        {{"expected", "0.." + std::to_string(vocab - 1)}, {"actual", std::to_string(token)}});
  }
}

void Decoder::head(int64_t first_row, int64_t rows, int64_t first_token,
                   const OnLogits& on_logits) {
  int64_t count = 0;
  for (int64_t done = 0; done < rows; done += count) {
    count = next_piece(rows - done, options_.logit_rows);
    model_.head(backend_, first_row + done, count, activations_);
    backend_.finish();
    on_logits(first_token + done, activations_.logits.rows_from(0, count).matrix());
  }
}

template <typename OnChunk>
void Decoder::run(std::span<const int32_t> tokens, const std::atomic<bool>& abort,
                  const OnChunk& on_chunk) {
  check(tokens);
  const ArenaScope scope(arena_);
  const int64_t start = position_;
  const auto total = static_cast<int64_t>(tokens.size());
  try {
    int64_t count = 0;
    for (int64_t done = 0; done < total; done += count) {
      count = next_piece(total - done, options_.chunk_tokens);
      model_.embed(backend_, tokens.subspan(static_cast<size_t>(done), static_cast<size_t>(count)),
                   activations_);
      for (int64_t layer = 0; layer < model_.config().num_hidden_layers; ++layer) {
        if (abort.load(std::memory_order_relaxed)) throw Error(ErrorCode::kAborted, "aborted");
        model_.block(backend_, layer, {position_, count}, cache_.layer(layer), activations_);
      }
      position_ += count;
      on_chunk(done, count, done + count == total);
    }
    backend_.finish();
  } catch (...) {
    backend_.discard();
    position_ = start;
    throw;
  }
}

void Decoder::forward(std::span<const int32_t> tokens, LogitRows rows,
                      const std::atomic<bool>& abort, const OnLogits& on_logits) {
  run(tokens, abort, [&](int64_t first, int64_t count, bool last) {
    if (rows == LogitRows::kAll) {
      head(0, count, first, on_logits);
    } else if (last) {
      head(count - 1, 1, first + count - 1, on_logits);
    }
  });
}

int32_t Decoder::next(std::span<const int32_t> tokens, const std::atomic<bool>& abort) {
  CHECK(!tokens.empty());
  int32_t token = -1;
  run(tokens, abort, [&](int64_t, int64_t count, bool last) {
    if (!last) return;
    model_.head(backend_, count - 1, 1, activations_);
    backend_.argmax(activations_.logits.rows_from(0, 1), token);
    backend_.finish();
  });
  CHECK(token >= 0 && token < model_.config().vocab_size);
  return token;
}

}  // namespace subbit
