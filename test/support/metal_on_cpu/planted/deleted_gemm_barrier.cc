// sign_gemm.metal with its threadgroup barriers taken out: tiles are read before they are filled.
#define SUBBIT_KERNEL_PREFIX "deleted_barrier_"
#include "support/metal_on_cpu/shader_language.h"
#define threadgroup_barrier(flags) static_cast<void>(flags)

namespace deleted_gemm_barrier {
#include "metal/sign_gemm.metal"
}  // namespace deleted_gemm_barrier
