// Attention's loops in AVX2: attention_tile.h with vectors of 8.
#include "backend/cpu/attention_kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

namespace subbit {
namespace {

#define SUBBIT_TARGET __attribute__((target("avx2,f16c,fma")))

struct Vector {
  using Floats = __m256;
  static constexpr int kLanes = 8;
  static constexpr int kQueries = 2;
  static constexpr int kSumQueries = 2;
  static constexpr int kSumVectors = 4;

  SUBBIT_TARGET static Floats zero() { return _mm256_setzero_ps(); }
  SUBBIT_TARGET static Floats broadcast(float x) { return _mm256_set1_ps(x); }
  SUBBIT_TARGET static Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
  SUBBIT_TARGET static Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }

  SUBBIT_TARGET static Floats load(const float* p) { return _mm256_loadu_ps(p); }
  SUBBIT_TARGET static Floats load(const Half* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  SUBBIT_TARGET static Floats load(const int8_t* p) {
    const __m128i codes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes));
  }
  template <typename Stored>
  SUBBIT_TARGET static Floats load_some(const Stored* p, int64_t count) {
    Stored values[kLanes] = {};
    std::copy_n(p, count, values);
    return load(values);
  }
  SUBBIT_TARGET static void store(float* p, Floats v) { _mm256_storeu_ps(p, v); }
  SUBBIT_TARGET static void store_some(float* p, Floats v, int64_t count) {
    float values[kLanes];
    store(values, v);
    std::copy_n(values, count, p);
  }

  /// Lanes l + (l + 4) of two vectors: [a, b], 4 each.
  SUBBIT_TARGET static Floats halve_8(Floats a, Floats b) {
    return add(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
  }
  SUBBIT_TARGET static Floats halve_4(Floats x, Floats y) {
    return add(_mm256_shuffle_ps(x, y, 0x44), _mm256_shuffle_ps(x, y, 0xEE));
  }
  SUBBIT_TARGET static Floats halve_2(Floats x, Floats y) {
    return add(_mm256_shuffle_ps(x, y, 0x88), _mm256_shuffle_ps(x, y, 0xDD));
  }
  SUBBIT_TARGET static Floats fold(const Floats (&v)[kLanes]) {
    Floats pairs[4];
    for (int e = 0; e < 4; ++e) pairs[e] = halve_8(v[e], v[4 + e]);
    return halve_2(halve_4(pairs[0], pairs[1]), halve_4(pairs[2], pairs[3]));
  }
};

SUBBIT_TARGET void narrow(std::span<const float> in, Half* out) {
  size_t i = 0;
  for (; i + 8 <= in.size(); i += 8) {
    const __m128i bits = _mm256_cvtps_ph(_mm256_loadu_ps(in.data() + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), bits);
  }
  narrow_portable(in.subspan(i), out + i);
}

}  // namespace
}  // namespace subbit

#include "backend/cpu/attention_tile.h"

namespace subbit {

const AttentionKernels kAvx2AttentionKernels = {"avx2", scores_in_vectors, weighted_sum_in_vectors,
                                                narrow};

}  // namespace subbit

#endif  // __x86_64__
