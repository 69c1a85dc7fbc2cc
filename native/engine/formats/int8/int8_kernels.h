// The row kernels of int8 by instruction set; int8.cc lists them.
#pragma once

#include "formats/groups/groups.h"

namespace subbit {

#if defined(__x86_64__)
extern const GroupKernel kInt8Avx2;
#endif

}  // namespace subbit
