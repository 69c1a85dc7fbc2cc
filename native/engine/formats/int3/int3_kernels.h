// The row kernels of int3 by instruction set; int3.cc lists them.
#pragma once

#include "formats/groups/groups.h"

namespace subbit {

#if defined(__x86_64__)
extern const GroupKernel kInt3Avx2;
#endif

}  // namespace subbit
