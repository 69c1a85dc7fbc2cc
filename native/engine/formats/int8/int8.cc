// Eight-bit groups, for embeddings and heads that deserve more than four bits. A unit is one signed
// byte a column, in order; -128 is not used, so that a code and its negative both fit.
#include "formats/int8/int8.h"

#include <cmath>
#include <cstring>

#include "formats/groups/groups.h"
#include "formats/signs/layout.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace subbit {
namespace {

void store(const int8_t* codes, int64_t group, uint8_t* unit) {
  std::memcpy(unit, codes, static_cast<size_t>(group));
}

void load(const uint8_t* unit, int64_t group, int8_t* codes) {
  std::memcpy(codes, unit, static_cast<size_t>(group));
}

float dot(const GroupRow& row) {
  float y = 0;
  for (int64_t g = 0; g < row.groups; ++g) {
    const int8_t* weights = reinterpret_cast<const int8_t*>(row.units + g * row.group);
    int32_t sum = 0;
    for (int64_t j = 0; j < row.group; ++j) {
      const int64_t column = g * row.group + j;
      const int32_t product = weights[j] * row.codes[column];
      sum += product * (1 << row.shifts[column / kChunk]);
    }
    y = std::fma(static_cast<float>(sum), row.scales[g], y);
  }
  return y;
}

#if defined(__x86_64__)

/// Pairs of products stay below 2 * 127 * 127 < 2^15, so the saturating multiply never saturates.
__attribute__((target("avx2,fma"))) float dot_avx2(const GroupRow& row) {
  __m256 y = _mm256_setzero_ps();
  const int64_t chunks_in_group = row.group / kChunk;
  for (int64_t c = 0; c < row.groups * chunks_in_group; ++c) {
    const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row.units + c * kChunk));
    const __m256i q = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row.codes + c * kChunk));
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(q, w));
    const __m256i shift = _mm256_set1_epi16(static_cast<int16_t>(1 << row.shifts[c]));
    const __m256 sum = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, shift));
    y = _mm256_fmadd_ps(sum, _mm256_set1_ps(row.scales[c / chunks_in_group]), y);
  }
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

#endif

GroupCoding make_coding() {
  GroupCoding coding;
  coding.name = "int8";
  coding.bits = 8;
  coding.code_min = -127;
  coding.code_max = 127;
  coding.code_reach = 127;
  coding.store = store;
  coding.load = load;
  coding.dot = dot;
  coding.fast_dot = dot;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) coding.fast_dot = dot_avx2;
#endif
  return coding;
}

const GroupCoding& coding() {
  static const GroupCoding instance = make_coding();
  return instance;
}

}  // namespace

const Format& int8_format() {
  static const GroupFormat format(coding());
  return format;
}

uint64_t int8_bytes(Shape shape) { return group_bytes(coding(), shape); }
std::vector<std::byte> pack_int8(ConstMatrix weights) { return pack_groups(coding(), weights); }

}  // namespace subbit
