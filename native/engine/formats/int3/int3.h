// The `int3` format: 3-bit codes with a half scale for each group of columns. See int3.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "formats/format.h"
#include "formats/groups/groups.h"

namespace subbit {

const Format& int3_format();
const GroupCoding& int3_coding();
uint64_t int3_bytes(Shape shape);
/// Throws kNonFinite on a weight that is not finite.
std::vector<std::byte> pack_int3(ConstMatrix weights);

}  // namespace subbit
