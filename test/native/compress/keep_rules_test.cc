#include "compress/keep_rules.h"

#include <vector>

#include "support/test.h"

namespace subbit {
namespace {

TEST(patterns_are_matched_as_in_a_shell_but_stars_pass_dots) {
  EXPECT(matches_pattern("a.b", "a.b"));
  EXPECT(!matches_pattern("a.b", "a.bc"));
  EXPECT(!matches_pattern("a.b", "aab"));
  EXPECT(matches_pattern("*", ""));
  EXPECT(matches_pattern("*.down_proj", "model.layers.0.mlp.down_proj"));
  EXPECT(!matches_pattern("*.down_proj", "model.layers.0.mlp.down_proj.weight"));
  EXPECT(matches_pattern("model.layers.?.mlp.*", "model.layers.7.mlp.up_proj"));
  EXPECT(!matches_pattern("model.layers.?.mlp.*", "model.layers.17.mlp.up_proj"));
  // The first place where "ab" could stand is not the right one.
  EXPECT(matches_pattern("*ab", "abab"));
  EXPECT(matches_pattern("*a*b*c", "aabbcbc"));
  EXPECT(!matches_pattern("*a*b*d", "aabbcbc"));
  EXPECT(!matches_pattern("", "a"));
  EXPECT(matches_pattern("", ""));
}

LinearSpec qkv() {
  LinearSpec spec;
  spec.name = "model.layers.0.self_attn.qkv_proj";
  spec.parts = {"model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj"};
  spec.part_rows = {64, 64};
  spec.shape = {128, 64};
  return spec;
}

TEST(a_rule_for_a_matrix_holds_for_the_stack_it_is_in_and_the_last_rule_wins) {
  const std::vector<KeepRule> rules = {{"*.k_proj", KeepRule::Rule::kAsStored, 0},
                                       {"*.v_proj", KeepRule::Rule::kBits, 4}};
  EXPECT(rule_for(rules, qkv()) == &rules[0]);
  const std::vector<KeepRule> both = {rules[0], {"*qkv*", KeepRule::Rule::kBits, 1.5}};
  EXPECT(rule_for(both, qkv()) == &both[1]);
  const std::vector<KeepRule> spelled = {{"*.q_proj.weight", KeepRule::Rule::kBits, 4}};
  EXPECT(rule_for(spelled, qkv()) == &spelled[0]);
  EXPECT(rule_for(std::span(&rules[1], 1), qkv()) == nullptr);
}

AllocationUnit unit_of(std::vector<uint64_t> bytes) {
  AllocationUnit unit;
  unit.name = "linear";
  for (const uint64_t count : bytes) {
    Candidate candidate;
    candidate.size.shape = {8, 100};  // 100 bytes are one bit a weight
    candidate.bytes = count;
    unit.candidates.push_back(candidate);
  }
  return unit;
}

TEST(rules_choose_among_the_forms_there_are) {
  AllocationUnit unit = unit_of({50, 90, 120});
  apply_rule({"*", KeepRule::Rule::kBits, 1.0}, unit);
  EXPECT_EQ(unit.candidates.size(), size_t{1});
  EXPECT_EQ(unit.candidates[0].bytes, uint64_t{90});

  unit = unit_of({50, 90, 120});
  apply_rule({"*", KeepRule::Rule::kAtLeast, 0.9}, unit);
  EXPECT_EQ(unit.candidates.size(), size_t{2});
  EXPECT_EQ(unit.candidates[0].bytes, uint64_t{90});

  unit = unit_of({50, 90, 120});
  apply_rule({"*", KeepRule::Rule::kAtLeast, 1.7}, unit);  // more than there is
  EXPECT_EQ(unit.candidates.size(), size_t{1});
  EXPECT_EQ(unit.candidates[0].bytes, uint64_t{120});

  unit = unit_of({50, 90});
  EXPECT_ERROR(ErrorCode::kInvalidOption, "few bits",
               apply_rule({"*", KeepRule::Rule::kBits, 0.4}, unit));
}

TEST(rules_that_fit_nothing_or_make_no_sense_are_refused) {
  Manifest manifest;
  manifest.blocks.resize(1);
  manifest.blocks[0].linears.push_back(qkv());
  const auto check = [&](KeepRule rule) { check_rules(std::span(&rule, 1), manifest); };
  check({"*q_proj", KeepRule::Rule::kAsStored, 0});
  check({"*q_proj", KeepRule::Rule::kBits, 3});
  check({"*q_proj", KeepRule::Rule::kBits, 0.5});
  EXPECT_ERROR(ErrorCode::kInvalidOption, "no linear",
               check({"lm_head", KeepRule::Rule::kAsStored, 0}));
  for (const double bits : {0.0, -1.0, 2.5, 5.0, 65.0})
    EXPECT_ERROR(ErrorCode::kInvalidOption, "no sense",
                 check({"*q_proj", KeepRule::Rule::kBits, bits}));
}

}  // namespace
}  // namespace subbit
