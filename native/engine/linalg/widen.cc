// One loop per stored type, with the machine's own half conversion where it has one.
#include "linalg/widen.h"

#include <cstring>

#include "base/half.h"
#include "base/processor.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace subbit {
namespace {

template <typename Stored>
void widen_portable(const Stored* stored, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = to_float(stored[i]);
}

#if defined(__x86_64__)

__attribute__((target("avx2,f16c"))) void widen_avx2(const Half* stored, int64_t count,
                                                     float* out) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(stored + i));
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(bits));
  }
  widen_portable(stored + i, count - i, out + i);
}

__attribute__((target("avx2"))) void widen_avx2(const BFloat16* stored, int64_t count, float* out) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(stored + i));
    const __m256i high = _mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), high);
  }
  widen_portable(stored + i, count - i, out + i);
}

template <typename Stored>
void widen_stored(const void* stored, int64_t count, float* out) {
  const auto* typed = static_cast<const Stored*>(stored);
  has_avx2() ? widen_avx2(typed, count, out) : widen_portable(typed, count, out);
}

#elif defined(__aarch64__)

void widen_neon(const Half* stored, int64_t count, float* out) {
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    const uint16x4_t bits = vld1_u16(&stored[i].bits);
    vst1q_f32(out + i, vcvt_f32_f16(vreinterpret_f16_u16(bits)));
  }
  widen_portable(stored + i, count - i, out + i);
}

void widen_neon(const BFloat16* stored, int64_t count, float* out) {
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    const uint32x4_t high = vshll_n_u16(vld1_u16(&stored[i].bits), 16);
    vst1q_f32(out + i, vreinterpretq_f32_u32(high));
  }
  widen_portable(stored + i, count - i, out + i);
}

template <typename Stored>
void widen_stored(const void* stored, int64_t count, float* out) {
  widen_neon(static_cast<const Stored*>(stored), count, out);
}

#else

template <typename Stored>
void widen_stored(const void* stored, int64_t count, float* out) {
  widen_portable(static_cast<const Stored*>(stored), count, out);
}

#endif

}  // namespace

void widen(GemmOperand::Type type, const void* stored, int64_t count, float* out) {
  if (count <= 0) return;
  switch (type) {
    case GemmOperand::Type::kF32:
      std::memcpy(out, stored, static_cast<size_t>(count) * sizeof(float));
      return;
    case GemmOperand::Type::kF16:
      return widen_stored<Half>(stored, count, out);
    case GemmOperand::Type::kBF16:
      return widen_stored<BFloat16>(stored, count, out);
  }
}

}  // namespace subbit
