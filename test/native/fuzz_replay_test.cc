// Every fuzz target over its corpus and a few thousand fixed mutations of it: the short fuzz that
// runs wherever the tests run. Real fuzzing is `npm run fuzz`.
#include "fuzz/config_target.h"
#include "fuzz/json_target.h"
#include "fuzz/llama2c_target.h"
#include "fuzz/packed_target.h"
#include "fuzz/replay.h"
#include "fuzz/safetensors_target.h"
#include "support/test.h"

namespace subbit {
namespace {

constexpr int64_t kMutations = 20000;

std::string corpus(const std::string& target) {
  return std::string(SUBBIT_TEST_ROOT) + "/fuzz/corpus/" + target;
}

/// Throws where the target finds a fault. `valid` seeds, and no others, must be accepted.
void replay(fuzz::Target target, const std::string& name, int64_t valid) {
  EXPECT_EQ(fuzz::replay(target, corpus(name), kMutations).seeds_accepted, valid);
}

TEST(fuzz_json_finds_nothing) { replay(fuzz::fuzz_json, "json", 5); }

TEST(fuzz_safetensors_finds_nothing) { replay(fuzz::fuzz_safetensors, "safetensors", 4); }

TEST(fuzz_llama2c_finds_nothing) { replay(fuzz::fuzz_llama2c, "llama2c", 2); }

TEST(fuzz_config_finds_nothing) { replay(fuzz::fuzz_config, "config", 7); }

TEST(fuzz_packed_finds_nothing) { replay(fuzz::fuzz_packed, "packed", 16); }

TEST(fuzz_replay_reports_a_fault_with_its_input) {
  const fuzz::Target faulty = [](std::span<const std::byte> input) {
    fuzz::require(input.size() < 40, "planted");
    return true;
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
