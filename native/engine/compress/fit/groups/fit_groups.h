// The fit of what is not compressed below a bit: embeddings, heads and linears that are kept. Codes
// of a few bits with a scale a group, rounded to nearest by the format itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "formats/format.h"

namespace subbit {

/// Whether there is a format of this many bits a code.
bool is_group_width(int bits);
/// "int4". `bits` is a group width, here and below.
std::string_view group_format(int bits);
uint64_t group_format_bytes(int bits, Shape shape);
/// Relative squared error expected of weights that look Gaussian.
double predicted_group_error(int bits);

/// The bytes of a weight in any format. Throws kNonFinite.
/// Memory: rows * cols floats while it runs.
std::vector<std::byte> fit_groups(const Weight& weight, int bits);

/// What there is in place of a fit where there is no weight: random codes of four bits, root mean
/// square `deviation`.
std::vector<std::byte> invent_int4(Shape shape, float deviation, uint64_t seed);

}  // namespace subbit
