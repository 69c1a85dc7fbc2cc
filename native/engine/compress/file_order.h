// The order of tensors in the weight file, so that each lies as aligned as its length allows, and
// what the file then weighs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "io/safetensors.h"

namespace subbit {

/// The data starts on a page, so tensors in order of the falling power of two, up to 128, that
/// divides their lengths each begin at a multiple of their own. Equals stay in the order given.
std::vector<size_t> file_order(std::span<const TensorSpec> tensors);
std::vector<TensorSpec> in_file_order(std::vector<TensorSpec> tensors);

/// Of the file of these tensors in this order, its header included.
uint64_t safetensors_bytes(const std::vector<TensorSpec>& tensors);

/// What the header says beside the tensors.
std::vector<std::pair<std::string, std::string>> weight_file_metadata();

}  // namespace subbit
