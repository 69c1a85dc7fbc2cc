// What a file that SafetensorsWriter writes weighs beside its tensors, before there is one.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "io/safetensors.h"

namespace subbit {

/// Of the length field, the header and its padding in such a file.
uint64_t safetensors_header_bytes(const std::vector<TensorSpec>& tensors,
                                  const std::vector<std::pair<std::string, std::string>>& metadata);

}  // namespace subbit
