// The fit of embeddings and heads: four bits a weight, rounded to nearest by the format itself.
#pragma once

#include <cstddef>
#include <vector>

#include "formats/format.h"

namespace subbit {

/// The `int4` bytes of a weight in any format. Throws kNonFinite.
/// Memory: rows * cols floats while it runs.
std::vector<std::byte> fit_int4(const Weight& weight);

}  // namespace subbit
