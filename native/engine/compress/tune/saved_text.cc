// Three arrays over all windows. Targets are stored by token id; indices follow from them.
#include "compress/tune/saved_text.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "compress/tune/distillation.h"

namespace subbit {
namespace {

struct TextArrays {
  explicit TextArrays(const TextShape& shape)
      : width(target_width(shape.vocab)),
        tokens(static_cast<size_t>(shape.windows * shape.tokens)),
        ids(tokens.size() * static_cast<size_t>(width)),
        probabilities(ids.size()) {}

  StateArrays list() {
    StateArrays arrays;
    arrays.add("tokens", tokens);
    arrays.add("ids", ids);
    arrays.add("probabilities", probabilities);
    return arrays;
  }
  bool are_ids_of(int64_t vocab) const {
    const auto fits = [vocab](int32_t id) { return id >= 0 && id < vocab; };
    return std::ranges::all_of(tokens, fits) && std::ranges::all_of(ids, fits);
  }

  int64_t width;
  std::vector<int32_t> tokens;       // [windows, tokens]
  std::vector<int32_t> ids;          // [windows, tokens, width]
  std::vector<float> probabilities;  // like ids
};

}  // namespace

void save_text(const std::string& path, const std::string& key, const TextShape& shape,
               std::span<const TrainingWindow> windows) {
  CHECK(std::ssize(windows) == shape.windows);
  TextArrays all(shape);
  auto token = all.tokens.begin();
  auto id = all.ids.begin();
  auto probability = all.probabilities.begin();
  for (const TrainingWindow& window : windows) {
    const TeacherTargets& targets = window.targets;
    CHECK(std::ssize(window.tokens) == shape.tokens && targets.rows == shape.tokens);
    CHECK(targets.width == all.width);
    token = std::ranges::copy(window.tokens, token).out;
    for (const int32_t column : targets.columns)
      *id++ = targets.vocabulary[static_cast<size_t>(column)];
    probability = std::ranges::copy(targets.probabilities, probability).out;
  }
  save_state(path, key, all.list());
}

StateFound load_text(const std::string& path, const std::string& key, const TextShape& shape,
                     std::vector<TrainingWindow>& windows) {
  TextArrays all(shape);
  const StateFound found = load_state(path, key, all.list());
  if (found != StateFound::kLoaded) return found;
  if (!all.are_ids_of(shape.vocab)) return StateFound::kUnreadable;
  windows.assign(static_cast<size_t>(shape.windows), {});
  const auto part = [](const auto& values, int64_t index, int64_t size) {
    const auto first = values.begin() + index * size;
    return std::vector(first, first + size);
  };
  for (int64_t w = 0; w < shape.windows; ++w) {
    TrainingWindow& window = windows[static_cast<size_t>(w)];
    window.tokens = part(all.tokens, w, shape.tokens);
    window.targets.rows = shape.tokens;
    window.targets.width = all.width;
    window.targets.columns = part(all.ids, w, shape.tokens * all.width);
    window.targets.probabilities = part(all.probabilities, w, shape.tokens * all.width);
    index_targets(window.targets);
  }
  return StateFound::kLoaded;
}

}  // namespace subbit
