// The fit of embeddings and heads: four bits a weight, rounded to nearest by the format itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "formats/format.h"

namespace subbit {

/// The `int4` bytes of a weight in any format. Throws kNonFinite.
/// Memory: rows * cols floats while it runs.
std::vector<std::byte> fit_int4(const Weight& weight);

/// What there is in place of a fit where there is no weight: random codes, root mean square
/// `deviation`. fitted_int4_bytes() long, as every fit of this shape is.
std::vector<std::byte> invent_int4(Shape shape, float deviation, uint64_t seed);
uint64_t fitted_int4_bytes(Shape shape);

}  // namespace subbit
