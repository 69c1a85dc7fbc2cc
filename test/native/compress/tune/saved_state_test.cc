// States on disk: what was saved comes back, and nothing else does.
#include "compress/tune/saved_state.h"

#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "compress/tune/saved_text.h"
#include "support/files.h"
#include "support/test.h"

namespace subbit {
namespace {

struct Owner {
  std::vector<float> floats = {1.0f, -2.0f, 3.5f};
  std::vector<uint8_t> empty;
  Buffer<int8_t> odd{13, int8_t{7}};
  double one = 0.1;

  StateArrays list() {
    StateArrays state;
    state.add("floats", floats);
    state.add("empty", empty);
    state.add("odd", odd);
    state.add_one("one", one);
    return state;
  }
  bool operator==(const Owner& other) const {
    return floats == other.floats && one == other.one &&
           std::equal(odd.span().begin(), odd.span().end(), other.odd.span().begin());
  }
};

Owner blank() {
  Owner owner;
  owner.floats = {0.0f, 0.0f, 0.0f};
  owner.odd = Buffer<int8_t>(13, int8_t{0});
  owner.one = 0.0;
  return owner;
}

void write_file(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

TEST(a_saved_state_comes_back_to_whom_it_belongs) {
  const std::string path = test::temporary_directory() + "/state";
  Owner owner;
  Owner back = blank();
  EXPECT(load_state(path, "mine", back.list()) == StateFound::kNone);
  save_state(path, "mine", owner.list());
  EXPECT(load_state(path, "mine", back.list()) == StateFound::kLoaded);
  EXPECT(back == owner);

  Owner other = blank();
  EXPECT(load_state(path, "another's", other.list()) == StateFound::kUnreadable);
  other.floats.push_back(0.0f);
  EXPECT(load_state(path, "mine", other.list()) == StateFound::kUnreadable);
  other = blank();
  other.empty = {1};
  EXPECT(load_state(path, "mine", other.list()) == StateFound::kUnreadable);
  other.empty = {};
  EXPECT(other == blank());
}

TEST(a_damaged_state_is_unreadable_and_leaves_the_arrays_alone) {
  const std::string path = test::temporary_directory() + "/state";
  Owner owner;
  save_state(path, "mine", owner.list());
  const std::string whole = test::read_file(path);
  std::vector<std::string> damaged;
  for (size_t i = 1; i < 8 && i < whole.size(); ++i)
    damaged.push_back(whole.substr(0, whole.size() * i / 8));
  damaged.push_back("");
  damaged.push_back(whole.substr(0, whole.size() - 1));
  damaged.push_back(whole + "x");
  const size_t data = whole.size() - (3 * sizeof(float) + 13 + 2 * sizeof(double));
  for (size_t i = data; i < whole.size(); ++i) {  // every bit that matters, one in each byte
    std::string flipped = whole;
    flipped[i] = static_cast<char>(flipped[i] ^ (1 << (i % 8)));
    damaged.push_back(flipped);
  }
  for (const std::string& bytes : damaged) {
    write_file(path, bytes);
    Owner back = blank();
    EXPECT(load_state(path, "mine", back.list()) == StateFound::kUnreadable);
    EXPECT(back == blank());
  }
}

TEST(text_comes_back_with_its_targets_and_never_with_tokens_that_are_none) {
  const std::string path = test::temporary_directory() + "/text";
  const TextShape shape{2, 3, 40};
  const int64_t width = target_width(shape.vocab);
  Rng rng(1);
  std::vector<TrainingWindow> windows(2);
  ThreadPool pool(1);
  for (TrainingWindow& window : windows) {
    std::vector<float> logits;
    for (int64_t i = 0; i < 3 * shape.vocab; ++i) logits.push_back(rng.normal());
    TargetCollector collector(3, shape.vocab);
    collector.add(0, {logits.data(), 3, shape.vocab}, pool);
    window.targets = collector.take();
    window.tokens = {1, static_cast<int32_t>(rng.uniform() * 40), 39};
  }
  save_text(path, "mine", shape, windows);
  std::vector<TrainingWindow> back;
  EXPECT(load_text(path, "mine", shape, back) == StateFound::kLoaded);
  EXPECT_EQ(back.size(), size_t{2});
  for (size_t w = 0; w < 2; ++w) {
    EXPECT(back[w].tokens == windows[w].tokens);
    EXPECT_EQ(back[w].targets.rows, 3);
    EXPECT_EQ(back[w].targets.width, width);
    EXPECT(back[w].targets.vocabulary == windows[w].targets.vocabulary);
    EXPECT(back[w].targets.columns == windows[w].targets.columns);
    EXPECT(back[w].targets.probabilities == windows[w].targets.probabilities);
  }
  // Tokens of a larger vocabulary than the model's.
  std::vector<TrainingWindow> none;
  EXPECT(load_text(path, "mine", {2, 3, 39}, none) == StateFound::kUnreadable);
  EXPECT(load_text(path, "mine", {3, 3, 40}, none) == StateFound::kUnreadable);
  EXPECT(none.empty());
}

}  // namespace
}  // namespace subbit
