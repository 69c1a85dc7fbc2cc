// Where architectures are looked up. registry.cc is the only file that names them.
#pragma once

#include <span>

#include "models/model.h"

namespace subbit {

std::span<const Architecture* const> all_architectures();

}  // namespace subbit
