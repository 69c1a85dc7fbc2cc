// What the processor under us can do and how much of it is ours. Asked once, answered the same for
// the life of the process; and where its threads run. The only place that knows CPUID, sysfs,
// cgroups, sysctl and affinity masks.
#pragma once

#include <bitset>
#include <thread>

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
/// Arm's products of small matrices of bytes: Apple's M2 and later. False on other architectures.
bool has_arm_i8mm();

/// Physical cores this process may run on: performance cores on Macs, elsewhere bounded by the
/// affinity mask and by the cgroup's CPU quota. At least 1.
int performance_cores();

/// Processors by the system's numbers. What a larger machine has beyond is not spoken of.
using ProcessorSet = std::bitset<1024>;

/// Those that the calling thread may run on; none where the system does not say (Macs).
ProcessorSet allowed_processors();
/// The one it is on just now; -1 where the system does not say.
int current_processor();
/// Lets `thread` run on `processors` and no others; a refusal changes nothing.
void allow_processors(std::thread& thread, const ProcessorSet& processors);

}  // namespace subbit
