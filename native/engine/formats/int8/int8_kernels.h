// The row kernels of int8 by instruction set; int8.cc lists them.
#pragma once

#include "formats/groups/groups.h"

namespace subbit {

#if defined(__x86_64__)
extern const GroupKernel kInt8Avx2;
#elif defined(__aarch64__)
extern const GroupKernel kInt8NeonDot;
extern const GroupKernel kInt8Neon;
#endif

}  // namespace subbit
