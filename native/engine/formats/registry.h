// Where formats and term kinds are looked up. registry.cc is the only file that names them all.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "formats/format.h"
#include "formats/term.h"

namespace subbit {

struct GroupCoding;  // formats/groups/groups.h

std::span<const Format* const> all_formats();
/// Null when there is no such format.
const Format* find_format(std::string_view name);
/// The same weights as dense float32 in memory of their own: the reference path.
std::unique_ptr<Weight> unpack_to_dense(const Weight& weight);

/// How group-scaled codes of so many bits are stored: 2, 3, 4 or 8. Null for other widths.
const GroupCoding* find_group_coding(int bits);

std::span<const TermKind* const> all_term_kinds();
/// Null when no built term kind has this tag.
const TermKind* find_term_kind(uint8_t tag);
const TermKind* find_term_kind(std::string_view name);

}  // namespace subbit
