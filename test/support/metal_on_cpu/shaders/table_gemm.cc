// metal/table_gemm.metal for metal_on_cpu.
#include "support/metal_on_cpu/shader_language.h"
// After the language it is written in.
#include "metal/table_gemm.metal"
