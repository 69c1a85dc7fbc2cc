// Exact widening of stored floats, halves and bfloat16 to float: what packing and the dense dot
// product read their operands with.
#pragma once

#include <cstdint>

#include "linalg/gemm.h"

namespace subbit {

/// Bytes of one stored element.
inline int64_t element_bytes(GemmOperand::Type type) {
  return type == GemmOperand::Type::kF32 ? 4 : 2;
}

/// out[i] = stored[i] for `count` elements of `type`. A NaN stays a NaN; its payload may change.
void widen(GemmOperand::Type type, const void* stored, int64_t count, float* out);

}  // namespace subbit
