// What the processor under us can do and how much of it is ours. Asked once, answered the same for
// the life of the process; the only place that knows CPUID, sysfs, cgroups and sysctl.
#pragma once

namespace subbit {

/// AVX2 with FMA and F16C, enabled by the operating system. False on other architectures.
bool has_avx2();
/// AVX-512 F, BW, DQ and VL on top of has_avx2().
bool has_avx512();
/// AVX-512 BF16 on top of has_avx512(): products of pairs of bfloat16 summed in float.
bool has_avx512_bf16();
/// AVX-512 VNNI and VBMI on top of has_avx512(): byte products summed in int32, byte permutations.
bool has_avx512_vnni();
/// Arm's dot products of bytes. False on other architectures.
bool has_arm_dot();

/// Physical cores this process may run on: performance cores on Macs, elsewhere bounded by the
/// affinity mask and by the cgroup's CPU quota. At least 1.
int performance_cores();

}  // namespace subbit
