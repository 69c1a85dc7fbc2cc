// The `int8` format: 8-bit codes with a half scale for each group of columns. See int8.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "formats/format.h"
#include "formats/groups/groups.h"

namespace subbit {

const Format& int8_format();
const GroupCoding& int8_coding();
uint64_t int8_bytes(Shape shape);
/// Throws kNonFinite on a weight that is not finite.
std::vector<std::byte> pack_int8(ConstMatrix weights);

}  // namespace subbit
