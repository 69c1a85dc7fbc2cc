// inspect() for a checkpoint that is already open; see engine.h for the rest.
#pragma once

#include "engine.h"
#include "io/checkpoint.h"

namespace subbit {

/// Every tensor with its format, shape and bits, and the totals of the body and of the file.
Inspection inspect(const Checkpoint& checkpoint);

/// What a forward pass of one token reads of the file: everything, but of embeddings that are not
/// also the head only one row.
uint64_t weight_bytes_per_token(const Checkpoint& checkpoint);

}  // namespace subbit
