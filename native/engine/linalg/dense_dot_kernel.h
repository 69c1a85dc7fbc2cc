// The seam inside dense_dot: one kernel per instruction set, all with the same bits. Only
// dense_dot.cc and its test include it.
#pragma once

#include <cstdint>
#include <span>

#include "linalg/gemm.h"

namespace subbit {

inline constexpr int64_t kDotLanes = 32;

struct DenseDotKernel {
  /// y[i] = dot(row i, x) for `rows` rows; `row_bytes` from one stored row to the next.
  struct Job {
    GemmOperand::Type type = GemmOperand::Type::kF32;
    const void* w = nullptr;
    int64_t row_bytes = 0;
    int64_t rows = 0;
    std::span<const float> x;
    float* y = nullptr;
  };
  const char* name = "";
  void (*run)(const Job& job) = nullptr;
};

/// Kernels this machine can run, fastest first; the last is portable.
std::span<const DenseDotKernel> dense_dot_kernels();

}  // namespace subbit
