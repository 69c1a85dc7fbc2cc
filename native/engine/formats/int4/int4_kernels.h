// The row kernels of int4 by instruction set; int4.cc lists them.
#pragma once

#include "formats/groups/groups.h"

namespace subbit {

#if defined(__x86_64__)
extern const GroupKernel kInt4Avx512;
extern const GroupKernel kInt4Avx512Quads;
extern const GroupKernel kInt4Avx2;
#elif defined(__aarch64__)
extern const GroupKernel kInt4NeonDot;
extern const GroupKernel kInt4Neon;
#endif

}  // namespace subbit
