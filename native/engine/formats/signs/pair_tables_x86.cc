// Builds pair tables with AVX2, two chunks at a time. For group g the bytes N0 P0 N1 P1 .. (what a
// column adds when its weight bit is 0 and when it is 1) are spread to all (k, b) at once; what is
// left is to transpose (g, k), because a table holds one k and all g.
#include "formats/signs/pair_tables.h"

#if defined(__x86_64__)

#include <cstring>
#include <immintrin.h>

#include "formats/signs/layout.h"
#include "formats/signs/sign_kernel.h"

namespace subbit {
namespace {

#define SUBBIT_AVX2 __attribute__((target("avx2")))

SUBBIT_AVX2 inline __m256i both_lanes(__m128i v) { return _mm256_broadcastsi128_si256(v); }

/// entries[4k + b] of one group, from its N and P bytes interleaved.
SUBBIT_AVX2 inline __m256i entries_of(__m256i group) {
  const __m256i low = both_lanes(_mm_setr_epi8(0, 1, 0, 1, 4, 5, 4, 5, 8, 9, 8, 9, 12, 13, 12, 13));
  const __m256i high =
      both_lanes(_mm_setr_epi8(2, 2, 3, 3, 6, 6, 7, 7, 10, 10, 11, 11, 14, 14, 15, 15));
  return _mm256_add_epi8(_mm256_shuffle_epi8(group, low), _mm256_shuffle_epi8(group, high));
}

/// Tables k = 0..3 of a chunk in each 128-bit lane; `first` holds each chunk's columns 0..15,
/// `second` 16..31.
SUBBIT_AVX2 inline void tables_of(__m256i first, __m256i second, __m256i tables[4]) {
  const __m256i zero = _mm256_setzero_si256();
  const __m256i p0 = _mm256_max_epi8(first, zero);
  const __m256i n0 = _mm256_max_epi8(_mm256_sub_epi8(zero, first), zero);
  const __m256i p1 = _mm256_max_epi8(second, zero);
  const __m256i n1 = _mm256_max_epi8(_mm256_sub_epi8(zero, second), zero);
  const __m256i g0 = entries_of(_mm256_unpacklo_epi8(n0, p0));
  const __m256i g1 = entries_of(_mm256_unpackhi_epi8(n0, p0));
  const __m256i g2 = entries_of(_mm256_unpacklo_epi8(n1, p1));
  const __m256i g3 = entries_of(_mm256_unpackhi_epi8(n1, p1));
  const __m256i low01 = _mm256_unpacklo_epi32(g0, g1);
  const __m256i low23 = _mm256_unpacklo_epi32(g2, g3);
  const __m256i high01 = _mm256_unpackhi_epi32(g0, g1);
  const __m256i high23 = _mm256_unpackhi_epi32(g2, g3);
  const __m256i b_then_g =
      both_lanes(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  tables[0] = _mm256_unpacklo_epi64(low01, low23);
  tables[1] = _mm256_shuffle_epi8(_mm256_unpackhi_epi64(low01, low23), b_then_g);
  tables[2] = _mm256_unpacklo_epi64(high01, high23);
  tables[3] = _mm256_shuffle_epi8(_mm256_unpackhi_epi64(high01, high23), b_then_g);
}

}  // namespace

SUBBIT_AVX2 void load_pair_tables_avx2(const LoadedCodes& codes, int64_t row, uint8_t* operand) {
  const int64_t chunks = codes.chunks;
  const int64_t plane = operand_chunks(chunks) * kPlaneChunkBytes;
  const int8_t* from = codes.codes.data() + row * chunks * kChunk;
  const uint8_t* shifts = codes.shifts.data() + row * chunks;
  for (int64_t c = 0; c < chunks; c += 2) {
    const __m256i one = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + c * kChunk));
    const bool has_other = c + 1 < chunks;  // an odd end pairs with zeros
    const __m256i other =
        has_other ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + (c + 1) * kChunk))
                  : _mm256_setzero_si256();
    __m256i tables[4];
    tables_of(_mm256_permute2x128_si256(one, other, 0x20),
              _mm256_permute2x128_si256(one, other, 0x31), tables);
    uint8_t* to = operand + c * kPlaneChunkBytes;
    for (int k = 0; k < 4; ++k) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + k * plane), tables[k]);
    }
    const auto scale = static_cast<int16_t>(1 << shifts[c]);
    const auto other_scale = static_cast<int16_t>(has_other ? 1 << shifts[c + 1] : 0);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 4 * plane),
                        _mm256_set_m128i(_mm_set1_epi16(other_scale), _mm_set1_epi16(scale)));
  }
  const int64_t written = (chunks + 1) / 2 * 2;
  for (int k = 0; k < 5; ++k) {
    std::memset(operand + k * plane + written * kPlaneChunkBytes, 0,
                static_cast<size_t>(plane - written * kPlaneChunkBytes));
  }
}

}  // namespace subbit

#endif  // __x86_64__
