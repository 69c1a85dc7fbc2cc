// The `int4` format: 4-bit codes with a half scale for each group of columns. See int4.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "formats/format.h"
#include "formats/groups/groups.h"

namespace subbit {

const Format& int4_format();
const GroupCoding& int4_coding();
uint64_t int4_bytes(Shape shape);
/// Throws kNonFinite on a weight that is not finite.
std::vector<std::byte> pack_int4(ConstMatrix weights);
/// random_groups (groups.h) in this format.
std::vector<std::byte> random_int4(Shape shape, float deviation, uint64_t seed);

}  // namespace subbit
