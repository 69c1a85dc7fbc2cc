// inspect() for a checkpoint that is already open; see engine.h for the rest.
#pragma once

#include "engine.h"
#include "io/checkpoint.h"

namespace subbit {

/// Every tensor with its format, shape and bits, and the totals of the body and of the file.
Inspection inspect(const Checkpoint& checkpoint);

}  // namespace subbit
