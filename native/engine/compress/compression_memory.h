// How many bytes a compression will hold at most: a pure function of the plan, the schedules and
// the size of the text, asked before the work begins, held to while it runs, and compared with what
// was measured in the tests. Every stage's formula follows what its header says of its memory.
#pragma once

#include "compress/cost.h"
#include "engine.h"

namespace subbit {

/// `request` as for predict_cost().
CompressMemory plan_compression_memory(const CostRequest& request);

/// Throws kInsufficientMemory with every part where the private bytes do not fit the limit. Pages
/// of the original are left out of that: blocks are read one after another, and the system takes
/// pages back that are clean.
void check_compression_memory(const CompressMemory& memory, const MemoryLimit& limit);

}  // namespace subbit
