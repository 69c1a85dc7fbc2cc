// The row kernels of int2 by instruction set; int2.cc lists them.
#pragma once

#include "formats/groups/groups.h"

namespace subbit {

#if defined(__x86_64__)
extern const GroupKernel kInt2Avx2;
#endif

}  // namespace subbit
