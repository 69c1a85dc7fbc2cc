// Which of the user's rules hold for which linear of the body, and what they leave of its
// candidates. Knows names and candidates, not files.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "compress/allocate.h"
#include "engine.h"
#include "models/model.h"

namespace subbit {

/// `*` stands for any run of characters, dots too, `?` for one.
bool matches_pattern(std::string_view pattern, std::string_view name);

/// The last rule that names the linear, or one of the matrices stacked in it; null if none does.
const KeepRule* rule_for(std::span<const KeepRule> rules, const LinearSpec& spec);

/// Bits a code in which a kept linear is stored, kAsStored included; 0 when the rule leaves it to
/// be compressed.
int kept_bits(const KeepRule& rule);

/// Of a linear that is compressed: the candidates that the rule allows. One that asks for more than
/// any has gets the largest. Throws kInvalidOption when a rule asks for less than the smallest has.
void apply_rule(const KeepRule& rule, AllocationUnit& unit);

/// Throws kInvalidOption for a rule that no linear of the body fits, or whose bits make no sense.
void check_rules(std::span<const KeepRule> rules, const Manifest& manifest);

}  // namespace subbit
