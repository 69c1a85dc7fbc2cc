// Kernels of a few lines, each with one fault (or none, to compare with).
#include "support/metal_on_cpu/shader_language.h"
// After the language it is written in.
#include "metal/device/dialect.h"

KERNEL(planted_none, (device const float* x [[buffer(0)]], device float* y [[buffer(1)]],
                      threadgroup float* sums THREADGROUP(0), THREAD)) {
  const float sum = simd_sum(x[32 * simdgroup + lane]);
  if (lane == 0) sums[simdgroup] = sum;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[index] = sums[0] + sums[1];
}

KERNEL(planted_divergent_simd_operation,
       (device const float* x [[buffer(0)]], device float* y [[buffer(1)]], THREAD)) {
  float sum = 0.0f;
  if (lane < 20) sum = simd_sum(x[lane]);
  y[index] = sum;
}

KERNEL(planted_divergent_barrier,
       (device const float* x [[buffer(0)]], device float* y [[buffer(1)]], THREAD)) {
  if (simdgroup == 0) threadgroup_barrier(mem_flags::mem_threadgroup);
  y[index] = x[index];
}

KERNEL(planted_two_operations,
       (device const float* x [[buffer(0)]], device float* y [[buffer(1)]], THREAD)) {
  if (lane % 2 == 0) {
    y[index] = simd_sum(x[lane]);
  } else {
    y[index] = simd_max(x[lane]);
  }
}

KERNEL(planted_read_past_the_end,
       (device const float* x [[buffer(0)]], device float* y [[buffer(1)]], THREAD)) {
  y[index] = x[index + 1];
}

KERNEL(planted_unwritten_memory,
       (device float* y [[buffer(0)]], threadgroup float* sums THREADGROUP(0), THREAD)) {
  if (index < 8) sums[index] = 1.0f;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[index] = sums[index % 9];
}

KERNEL(planted_race_on_one_word, (device float* y [[buffer(0)]], THREAD)) {
  y[group.x] = float(index);
}

KERNEL(planted_race_between_threadgroups, (device float* y [[buffer(0)]], THREAD)) {
  y[index] = float(group.x);
}

/// The barrier orders threadgroup memory, and the kernel exchanges through the device's.
KERNEL(planted_barrier_of_the_wrong_memory, (device float* y [[buffer(0)]], THREAD)) {
  y[index] = float(index);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const float other = y[index ^ 32];
  threadgroup_barrier(mem_flags::mem_device);
  y[index] = other;
}

KERNEL(planted_barrier_of_the_right_memory, (device float* y [[buffer(0)]], THREAD)) {
  y[index] = float(index);
  threadgroup_barrier(mem_flags::mem_device);
  const float other = y[index ^ 32];
  threadgroup_barrier(mem_flags::mem_device);
  y[index] = other;
  simdgroup_barrier(mem_flags::mem_device);
  y[index ^ 1] = y[index ^ 1] + 1.0f;
}
