// Four-bit groups, for embeddings and heads. A unit of a 64-column group is 32 bytes: low nibbles
// hold columns 0..31, high nibbles 32..63 (two activation chunks); of a 32-column group 16 bytes,
// low 0..15, high 16..31. A nibble stands for its value less 8.
#include "formats/int4/int4.h"

#include <cmath>

#include "formats/groups/groups.h"
#include "formats/signs/layout.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace subbit {
namespace {

void store(const int8_t* codes, int64_t group, uint8_t* unit) {
  const int64_t half = group / 2;
  for (int64_t j = 0; j < half; ++j) {
    unit[j] = static_cast<uint8_t>((codes[j] + 8) | (codes[half + j] + 8) << 4);
  }
}

void load(const uint8_t* unit, int64_t group, int8_t* codes) {
  const int64_t half = group / 2;
  for (int64_t j = 0; j < half; ++j) {
    codes[j] = static_cast<int8_t>((unit[j] & 15) - 8);
    codes[half + j] = static_cast<int8_t>((unit[j] >> 4) - 8);
  }
}

float dot(const GroupRow& row) {
  float y = 0;
  int8_t weights[64];
  for (int64_t g = 0; g < row.groups; ++g) {
    load(row.units + g * row.group / 2, row.group, weights);
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

/// 32 weights (nibbles less 8) times 32 codes: eight int32 lanes, each the exact sum of four
/// products times 2^shift, below 2^24 so that its float is exact too.
__attribute__((target("avx2,fma"))) inline __m256i multiply_32(__m256i nibbles, const int8_t* codes,
                                                               uint8_t shift) {
  const __m256i w = _mm256_sub_epi8(nibbles, _mm256_set1_epi8(8));
  const __m256i q = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(q, w));
  return _mm256_madd_epi16(pairs, _mm256_set1_epi16(static_cast<int16_t>(1 << shift)));
}

__attribute__((target("avx2,fma"))) float dot_avx2(const GroupRow& row) {
  const __m256i low_mask = _mm256_set1_epi8(15);
  __m256 y = _mm256_setzero_ps();
  for (int64_t g = 0; g < row.groups; ++g) {
    const uint8_t* unit = row.units + g * row.group / 2;
    __m256i sum;
    if (row.group == 64) {
      const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(unit));
      const __m256i low = _mm256_and_si256(v, low_mask);
      const __m256i high = _mm256_and_si256(_mm256_srli_epi16(v, 4), low_mask);
      sum = _mm256_add_epi32(multiply_32(low, row.codes + 64 * g, row.shifts[2 * g]),
                             multiply_32(high, row.codes + 64 * g + 32, row.shifts[2 * g + 1]));
    } else {
      const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(unit));
      const __m256i both = _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(v, 4), v), low_mask);
      sum = multiply_32(both, row.codes + 32 * g, row.shifts[g]);
    }
    y = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_set1_ps(row.scales[g]), y);
  }
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

#endif

GroupCoding make_coding() {
  GroupCoding coding;
  coding.name = "int4";
  coding.bits = 4;
  coding.code_min = -8;
  coding.code_max = 7;
  coding.code_reach = 8;
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

const Format& int4_format() {
  static const GroupFormat format(coding());
  return format;
}

uint64_t int4_bytes(Shape shape) { return group_bytes(coding(), shape); }
std::vector<std::byte> pack_int4(ConstMatrix weights) { return pack_groups(coding(), weights); }
std::vector<std::byte> random_int4(Shape shape, float deviation, uint64_t seed) {
  return random_groups(coding(), shape, deviation, seed);
}

}  // namespace subbit
