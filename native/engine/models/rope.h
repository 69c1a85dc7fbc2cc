// Rotary frequencies as config.json describes them, plain or scaled, and the table of angles made
// from them.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "models/config_reader.h"

namespace subbit {

/// [head_dim / 2] radians a position. Scaling of rope_type "llama3" and "linear" is applied; any
/// other is refused by name (kUnsupportedArch). Reads rope_theta and rope_scaling, or the
/// rope_parameters that replaced them both.
std::vector<double> rope_frequencies(const ConfigReader& config, int64_t head_dim);

RopeTable make_rope_table(const std::vector<double>& frequencies, int64_t positions);

}  // namespace subbit
