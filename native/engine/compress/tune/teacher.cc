// Targets fall out of the logits that are computed anyway, when text is read as when it is written.
#include "compress/tune/teacher.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "backend/cpu/cpu_backend.h"
#include "base/check.h"
#include "compress/tune/lockstep_backend.h"
#include "linalg/row_reduction.h"

namespace subbit {
namespace {

/// Sequences in step: what their keys, values and logits may take, unless one takes more, and how
/// many are enough for the cost of reading all weights once to vanish.
constexpr int64_t kWritingBytes = int64_t{512} << 20;
constexpr int64_t kMostSequences = 128;

/// A token drawn in proportion to `powers`. Whole runs are passed over by their sums.
int32_t draw(std::span<const float> powers, double uniform) {
  constexpr int64_t kRun = 256;
  const int64_t count = std::ssize(powers);
  const auto run_sum = [&](int64_t first) {
    return sum_of(powers.data() + first, std::min(kRun, count - first));
  };
  double total = 0.0;
  for (int64_t first = 0; first < count; first += kRun) total += run_sum(first);
  double left = uniform * total;
  int64_t first = 0;
  for (; first + kRun < count; first += kRun) {
    const double sum = run_sum(first);
    if (left < sum) break;
    left -= sum;
  }
  for (int64_t i = first; i < std::min(count, first + kRun); ++i) {
    left -= powers[static_cast<size_t>(i)];
    if (left < 0.0) return static_cast<int32_t>(i);
  }
  // Rounding: the token lies within an ulp of the end of its run.
  return static_cast<int32_t>(std::max_element(powers.begin(), powers.end()) - powers.begin());
}

int64_t side_floats(const ModelConfig& config, int64_t tokens) {
  return config.num_key_value_heads * tokens * config.head_dim;
}

}  // namespace

int64_t sequences_in_step(const ModelConfig& config, int64_t tokens) {
  const int64_t floats =
      2 * config.num_hidden_layers * side_floats(config, tokens) + config.vocab_size;
  return std::clamp<int64_t>(kWritingBytes / (4 * floats), 1, kMostSequences);
}

Teacher::Teacher(Model& model, int64_t longest, ThreadPool& pool)
    : model_(model), longest_(longest), pool_(pool), backend_(make_cpu_backend(pool)) {
  const ModelConfig& config = model.config();
  // Sequences in step look to a model like one chunk of as many tokens.
  model.prepare(longest + sequences_in_step(config, longest));
  activations_ = carve_activations(model.activation_widths(),
                                   {longest, longest, kLogitRows, KvType::kF32}, storage_);
  keys_ = Buffer<float>(longest * config.num_key_value_heads * config.head_dim);
  values_ = Buffer<float>(keys_.size());
}

TeacherTargets Teacher::targets(std::span<const int32_t> window) {
  const auto tokens = static_cast<int64_t>(window.size());
  CHECK(tokens <= longest_);
  TargetCollector collector(tokens, model_.config().vocab_size);
  model_.embed(*backend_, window, activations_);
  const KvLayer kv{KvType::kF32, keys_.data(), values_.data(), longest_};
  for (int64_t layer = 0; layer < model_.config().num_hidden_layers; ++layer)
    model_.block(*backend_, layer, {0, tokens}, kv, activations_);
  for (int64_t first = 0; first < tokens; first += kLogitRows) {
    const int64_t rows = std::min(kLogitRows, tokens - first);
    model_.head(*backend_, first, rows, activations_);
    backend_->finish();
    collector.add(first, activations_.logits.rows_from(0, rows).matrix(), pool_);
  }
  return collector.take();
}

std::vector<TrainingWindow> Teacher::write(const TeacherText& text,
                                           const std::function<void(int64_t tokens)>& step) {
  CHECK(text.tokens <= longest_);
  const int64_t most = sequences_in_step(model_.config(), text.tokens);
  Rng seeds(text.seed);
  std::vector<TrainingWindow> windows;
  while (std::ssize(windows) < text.windows) {
    // A window is the same however many are written beside it.
    std::vector<Rng> rngs;
    while (std::ssize(rngs) < std::min(most, text.windows - std::ssize(windows)))
      rngs.emplace_back(seeds.next());
    const int64_t before = std::ssize(windows) * text.tokens;
    for (TrainingWindow& window :
         write_batch(rngs, text, [&](int64_t tokens) { step(before + tokens); }))
      windows.push_back(std::move(window));
  }
  return windows;
}

std::vector<TrainingWindow> Teacher::write_batch(std::span<Rng> rngs, const TeacherText& text,
                                                 const std::function<void(int64_t tokens)>& step) {
  const ModelConfig& config = model_.config();
  const int64_t sequences = std::ssize(rngs);
  Buffer<float> storage;
  Activations a = carve_activations(model_.activation_widths(),
                                    {text.tokens, sequences, sequences, KvType::kF32}, storage);
  const int64_t side = side_floats(config, text.tokens);
  Buffer<float> cache(2 * config.num_hidden_layers * sequences * side);
  LockstepBackend lockstep(*backend_);
  std::vector<int32_t> next(static_cast<size_t>(sequences), text.start);
  std::vector<TrainingWindow> windows(static_cast<size_t>(sequences));
  std::vector<TargetCollector> collectors(static_cast<size_t>(sequences),
                                          TargetCollector(text.tokens, config.vocab_size));
  for (int64_t position = 0; position < text.tokens; ++position) {
    model_.embed(lockstep, next, a);
    for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
      float* keys = cache.data() + 2 * layer * sequences * side;
      const KvLayer kv{KvType::kF32, keys, keys + sequences * side, text.tokens};
      model_.block(lockstep, layer, {position, sequences}, kv, a);
    }
    model_.head(lockstep, 0, sequences, a);
    lockstep.finish();
    for (int64_t s = 0; s < sequences; ++s) windows[s].tokens.push_back(next[s]);
    pool_.parallel_for(sequences, 1, [&](Range range) {
      for (int64_t s = range.begin; s < range.end; ++s) {
        const Matrix logits = a.logits.rows_from(s, 1).matrix();
        collectors[s].add_row(position, logits.data);
        next[s] = draw({logits.data, static_cast<size_t>(logits.cols)}, rngs[s].uniform());
      }
    });
    step((position + 1) * sequences);
  }
  for (int64_t s = 0; s < sequences; ++s) windows[s].targets = collectors[s].take();
  return windows;
}

}  // namespace subbit
