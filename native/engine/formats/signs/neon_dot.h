// The dot product instructions of Arm, which every Apple chip has but the architecture's baseline
// has not: callers ask has_arm_dot() first. In assembler where the compiler was not told of them,
// so that one build serves old and new processors with no function compiled twice.
#pragma once

#if defined(__aarch64__)

#include <arm_neon.h>

namespace subbit {

/// sum + the products of a and b, four neighbours to a lane.
inline uint32x4_t dot_u8(uint32x4_t sum, uint8x16_t a, uint8x16_t b) {
#if defined(__ARM_FEATURE_DOTPROD)
  return vdotq_u32(sum, a, b);
#else
  asm(".arch armv8.2-a+dotprod\n\tudot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(a), "w"(b));
  return sum;
#endif
}

inline int32x4_t dot_s8(int32x4_t sum, int8x16_t a, int8x16_t b) {
#if defined(__ARM_FEATURE_DOTPROD)
  return vdotq_s32(sum, a, b);
#else
  asm(".arch armv8.2-a+dotprod\n\tsdot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(a), "w"(b));
  return sum;
#endif
}

}  // namespace subbit

#endif  // __aarch64__
