// read_bandwidth: loads every unit once and leaves a threadgroup's sum, so that the loads cannot be
// left out. What the doctor measures other kernels by.
#include "device/dialect.h"
#include "read_bandwidth.h"

KERNEL(read_bandwidth, (constant ReadBandwidthArgs & read_args [[buffer(0)]],
                        device const uint4* units [[buffer(1)]], device uint* sums [[buffer(2)]],
                        threadgroup uint* partials THREADGROUP(0), THREAD)) {
  const uint count = read_args.units;
  const uint first = group.x * kReadThreads * kReadUnits + index;
  uint4 sum = uint4(0u);
  for (uint i = 0; i < kReadUnits; ++i) {
    const uint at = first + i * kReadThreads;
    if (at < count) sum += units[at];
  }
  const uint all = simd_sum(sum.x + sum.y + sum.z + sum.w);
  if (lane == 0) partials[simdgroup] = all;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (index != 0) return;
  uint total = 0;
  for (uint i = 0; i < kReadSimdgroups; ++i) total += partials[i];
  sums[group.x] = total;
}
