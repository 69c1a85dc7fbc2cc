// Every fuzz target over its corpus and a few thousand fixed mutations of it: the short fuzz that
// runs wherever the tests run. Real fuzzing is `npm run fuzz`.
#include "fuzz/json_target.h"
#include "fuzz/llama2c_target.h"
#include "fuzz/replay.h"
#include "fuzz/safetensors_target.h"
#include "support/test.h"

namespace subbit {
namespace {

constexpr int64_t kMutations = 20000;

std::string corpus(const std::string& target) {
  return std::string(SUBBIT_TEST_ROOT) + "/fuzz/corpus/" + target;
}

TEST(fuzz_json_finds_nothing) { fuzz::replay(fuzz::fuzz_json, corpus("json"), kMutations); }

TEST(fuzz_safetensors_finds_nothing) {
  fuzz::replay(fuzz::fuzz_safetensors, corpus("safetensors"), kMutations);
}

TEST(fuzz_llama2c_finds_nothing) {
  fuzz::replay(fuzz::fuzz_llama2c, corpus("llama2c"), kMutations);
}

TEST(fuzz_replay_reports_a_fault_with_its_input) {
  const fuzz::Target faulty = [](std::span<const std::byte> input) {
    fuzz::require(input.size() < 40, "planted");
  };
  try {
    fuzz::replay(faulty, corpus("json"), 0);
    EXPECT(false);
  } catch (const fuzz::Violation& violation) {
    EXPECT(std::string(violation.what()).starts_with("planted; input: 7b 22"));
  }
}

}  // namespace
}  // namespace subbit
