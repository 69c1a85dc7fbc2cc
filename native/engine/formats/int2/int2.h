// The `int2` format: 2-bit codes with a half scale for each group of columns. See int2.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "formats/format.h"
#include "formats/groups/groups.h"

namespace subbit {

const Format& int2_format();
const GroupCoding& int2_coding();
uint64_t int2_bytes(Shape shape);
/// Throws kNonFinite on a weight that is not finite.
std::vector<std::byte> pack_int2(ConstMatrix weights);

}  // namespace subbit
