// Patterns against names, rates against candidates.
#include "compress/keep_rules.h"

#include <algorithm>
#include <cstdio>
#include <string>

#include "base/check.h"
#include "compress/fit/groups/fit_groups.h"
#include "compress/plain.h"

namespace subbit {
namespace {

std::string text_of(double number) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", number);
  return text;
}

double rate_of(const Candidate& candidate) {
  return bits_per_weight(candidate.bytes, candidate.size.shape.count());
}

bool names(const KeepRule& rule, const LinearSpec& spec) {
  const auto fits = [&](const std::string& name) {
    return matches_pattern(rule.pattern, name) || matches_pattern(rule.pattern, name + ".weight");
  };
  return fits(spec.name) || std::any_of(spec.parts.begin(), spec.parts.end(), fits);
}

bool is_group_rule(const KeepRule& rule) {
  return rule.rule == KeepRule::Rule::kBits && rule.bits >= 2.0;
}

}  // namespace

bool matches_pattern(std::string_view pattern, std::string_view name) {
  // Greedy with one way back: the last star takes one character more whenever what follows fails.
  size_t p = 0;
  size_t n = 0;
  size_t star = std::string_view::npos;
  size_t after_star = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      after_star = n;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == name[n])) {
      ++p;
      ++n;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      n = ++after_star;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

const KeepRule* rule_for(std::span<const KeepRule> rules, const LinearSpec& spec) {
  const KeepRule* last = nullptr;
  for (const KeepRule& rule : rules)
    if (names(rule, spec)) last = &rule;
  return last;
}

int kept_bits(const KeepRule& rule) {
  if (rule.rule == KeepRule::Rule::kAsStored) return kAsStored;
  return is_group_rule(rule) ? static_cast<int>(rule.bits) : 0;
}

void apply_rule(const KeepRule& rule, AllocationUnit& unit) {
  const auto fewer = [](const Candidate& a, const Candidate& b) { return a.bytes < b.bytes; };
  std::vector<Candidate>& all = unit.candidates;
  CHECK(!all.empty() && kept_bits(rule) == 0);
  if (rule.rule == KeepRule::Rule::kAtLeast) {
    const Candidate largest = *std::max_element(all.begin(), all.end(), fewer);
    std::erase_if(all, [&](const Candidate& form) { return rate_of(form) < rule.bits; });
    if (all.empty()) all.push_back(largest);
    return;
  }
  const Candidate smallest = *std::min_element(all.begin(), all.end(), fewer);
  std::erase_if(all, [&](const Candidate& form) { return rate_of(form) > rule.bits; });
  if (all.empty()) {
    // Rounded up, so that asking for the number named works.
    char least[48];
    std::snprintf(least, sizeof least, "at least %.3f", rate_of(smallest) + 0.0005);
    throw Error(ErrorCode::kInvalidOption, unit.name + " has no form of so few bits per weight",
                {{"option", "keep"},
                 {"tensor", unit.name},
                 {"expected", least},
                 {"actual", text_of(rule.bits)}});
  }
  const Candidate largest = *std::max_element(all.begin(), all.end(), fewer);
  all.assign(1, largest);
}

void check_rules(std::span<const KeepRule> rules, const Manifest& manifest) {
  for (const KeepRule& rule : rules) {
    const bool needs_bits = rule.rule != KeepRule::Rule::kAsStored;
    const bool sensible = !needs_bits || (rule.bits > 0.0 && rule.bits <= 64.0);
    const bool has_format = !is_group_rule(rule) || (rule.bits == static_cast<int>(rule.bits) &&
                                                     is_group_width(static_cast<int>(rule.bits)));
    if (!sensible || !has_format) {
      throw Error(ErrorCode::kInvalidOption,
                  "the bits asked for " + rule.pattern + " make no sense",
                  {{"option", "keep"},
                   {"expected", "above 0 and below 2, or 2, 3, 4 or 8"},
                   {"actual", text_of(rule.bits)}});
    }
    bool is_used = false;
    for (const BlockSpec& block : manifest.blocks)
      for (const LinearSpec& spec : block.linears) is_used = is_used || names(rule, spec);
    if (is_used) continue;
    const std::string example =
        manifest.blocks.empty() ? "" : manifest.blocks[0].linears[0].parts[0];
    throw Error(ErrorCode::kInvalidOption, "no linear of the blocks is called " + rule.pattern,
                {{"option", "keep"}, {"expected", "such as " + example}, {"actual", rule.pattern}});
  }
}

}  // namespace subbit
