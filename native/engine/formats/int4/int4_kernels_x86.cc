// The row kernels of int4 for AVX2 and for AVX-512 with VNNI.
//
// AVX-512 multiplies two groups of 64 columns at once, low nibbles and high nibbles apart. vpdpbusd
// wants one side unsigned: the nibbles as they are, so that the accumulator begins at -8 times the
// sum of its four codes. Four products then lie within 4 * 8 * 127 < 2^15, and a 16-bit multiply by
// 2^s_c scales them. About 12 instructions for 128 weights, and half of the loads are of codes:
// rows abreast share those, and their sums, which end a short row, run beside each other.
//
// Operand of two groups, 384 bytes: codes of both groups' low halves, of their high halves; the
// accumulators' beginnings, 16 int32 for each half; 2^s_c, 16 int32 for each half. Zero past the
// last group.
//
// Groups of 32 columns, for widths that 64 does not divide, go four at once. Both nibbles of a byte
// then share 2^s_c, so that one accumulator takes both, eight products within 2^15. Operand of four
// groups, 256 bytes: codes of their low halves, of their high halves; beginnings; 2^s_c.
#include "formats/int4/int4_kernels.h"

#if defined(__x86_64__)

#include <algorithm>
#include <cstring>
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 takes its own headers' undefined registers for a mistake (its bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include "base/processor.h"
#include "formats/groups/group_kernels_x86.h"
#include "formats/signs/layout.h"

namespace subbit {
namespace {

SUBBIT_AVX2 inline __m256i weights_of(__m256i nibbles) {
  return _mm256_sub_epi8(nibbles, _mm256_set1_epi8(8));
}

SUBBIT_AVX2 float dot_avx2(const GroupRow& row) {
  const __m256i low_mask = _mm256_set1_epi8(15);
  __m256 y = _mm256_setzero_ps();
  float scales[8];
  for (int64_t g = 0; g < row.groups; ++g) {
    if (g % 8 == 0) load_scales(row.scales, g, row.groups, scales);
    const uint8_t* unit = row.units + g * row.group / 2;
    __m256i sum;
    if (row.group == 64) {
      const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(unit));
      const __m256i low = _mm256_and_si256(v, low_mask);
      const __m256i high = _mm256_and_si256(_mm256_srli_epi16(v, 4), low_mask);
      sum = _mm256_add_epi32(
          multiply_32(weights_of(low), row.codes + 64 * g, row.shifts[2 * g]),
          multiply_32(weights_of(high), row.codes + 64 * g + 32, row.shifts[2 * g + 1]));
    } else {
      const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(unit));
      const __m256i both = _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(v, 4), v), low_mask);
      sum = multiply_32(weights_of(both), row.codes + 32 * g, row.shifts[g]);
    }
    y = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_set1_ps(scales[g % 8]), y);
  }
  return sum_lanes(y);
}

#define SUBBIT_AVX512 \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")))

constexpr int64_t kLanes = 16;

struct PairOperand {
  int8_t codes[2][64];        // [half][two groups' 32 columns]
  int32_t begin[2][kLanes];   // -8 * the sum of a lane's four codes
  int32_t factor[2][kLanes];  // 2^s_c
};
static_assert(sizeof(PairOperand) == 384);

void load_pairs(const GroupRow& row, uint8_t* operand) {
  for (int64_t p = 0; p < (row.groups + 1) / 2; ++p) {
    PairOperand pair{};
    for (int64_t g = 2 * p; g < std::min(2 * p + 2, row.groups); ++g) {
      for (int64_t half = 0; half < 2; ++half) {
        const int64_t chunk = 2 * g + half;
        const int8_t* codes = row.codes + chunk * kChunk;
        std::memcpy(pair.codes[half] + g % 2 * kChunk, codes, kChunk);
        for (int64_t l = 0; l < kLanes / 2; ++l) {
          const int64_t lane = g % 2 * (kLanes / 2) + l;
          const int8_t* four = codes + 4 * l;
          pair.begin[half][lane] = -8 * (four[0] + four[1] + four[2] + four[3]);
          pair.factor[half][lane] = 1 << row.shifts[chunk];
        }
      }
    }
    std::memcpy(operand + p * static_cast<int64_t>(sizeof(pair)), &pair, sizeof(pair));
  }
}

/// How far ahead of a row's units and scales prefetches run, in bytes. Scales are the slower ones
/// to be foreseen, a line or two for each row: without theirs a cold head of 4096 columns takes
/// 2450 us, with them 1720. Not a multiple of a page.
constexpr int64_t kUnitsAhead = 12800;
constexpr int64_t kScalesAhead = 1024;

/// Rows abreast: cold, in GB/s, one, two and four at a time, rows of 768 columns were multiplied at
/// 24, 37 and 43, of 2048 at 33, 44 and 45, of 4096 at 39, 46 and 41, of 8192 at 41, 41 and 30:
/// long rows get into each other's way in the first-level cache.
int64_t rows_abreast(int64_t row_bytes) {
  constexpr int64_t kFourRowBytes = 1536;
  constexpr int64_t kTwoRowBytes = 3072;
  return row_bytes <= kFourRowBytes ? 4 : row_bytes <= kTwoRowBytes ? 2 : 1;
}

/// The scales of up to 16 groups of a row; zeros behind them.
SUBBIT_AVX512 inline __m512 scales_of(const Half* from, __mmask16 some) {
  _mm_prefetch(reinterpret_cast<const char*>(from) + kScalesAhead, _MM_HINT_T0);
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(some, from));
}

/// Groups of 64 columns.
template <int kRows>
SUBBIT_AVX512 void dot_pairs(const GroupRow& row, float* sums) {
  constexpr int64_t kUnit = 32;
  const __m512i low_mask = _mm512_set1_epi8(15);
  const __m512i by_half = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi32(1), 1);
  __m512 y[kRows];
  for (__m512& one : y) one = _mm512_setzero_ps();
  const auto* pair = reinterpret_cast<const PairOperand*>(row.operand);
  for (int64_t first = 0; first < row.groups; first += 16) {
    const int64_t count = std::min<int64_t>(16, row.groups - first);
    const auto some = static_cast<__mmask16>((1u << count) - 1);
    __m512 scales[kRows];
    for (int r = 0; r < kRows; ++r)
      scales[r] = scales_of(row.scales + r * row.groups + first, some);
    __m512i place = by_half;  // of each lane's scale
    for (int64_t g = first; g < first + count; g += 2, ++pair) {
      for (int r = 0; r < kRows; ++r) {
        const uint8_t* unit = row.units + (r * row.groups + g) * kUnit;
        _mm_prefetch(reinterpret_cast<const char*>(unit) + kUnitsAhead, _MM_HINT_T0);
        // A last group without a partner: its half of the vector, and zeros times zeros.
        const __m512i v =
            g + 1 < row.groups ? _mm512_loadu_si512(unit) : _mm512_maskz_loadu_epi64(0x0F, unit);
        const __m512i low = _mm512_and_si512(v, low_mask);
        const __m512i high = _mm512_and_si512(_mm512_srli_epi16(v, 4), low_mask);
        const __m512i low_dot = _mm512_dpbusd_epi32(_mm512_loadu_si512(pair->begin[0]), low,
                                                    _mm512_loadu_si512(pair->codes[0]));
        const __m512i high_dot = _mm512_dpbusd_epi32(_mm512_loadu_si512(pair->begin[1]), high,
                                                     _mm512_loadu_si512(pair->codes[1]));
        __m512i sum = _mm512_madd_epi16(low_dot, _mm512_loadu_si512(pair->factor[0]));
        sum = _mm512_dpwssd_epi32(sum, high_dot, _mm512_loadu_si512(pair->factor[1]));
        y[r] =
            _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_permutexvar_ps(place, scales[r]), y[r]);
      }
      place = _mm512_add_epi32(place, _mm512_set1_epi32(2));
    }
  }
  for (int r = 0; r < kRows; ++r) sums[r] = _mm512_reduce_add_ps(y[r]);
}

struct QuadOperand {
  int8_t codes[2][64];     // [half][four groups' 16 columns]
  int32_t begin[kLanes];   // -8 * the sum of a lane's eight codes
  int32_t factor[kLanes];  // 2^s_c
};
static_assert(sizeof(QuadOperand) == 256);

void load_quads(const GroupRow& row, uint8_t* operand) {
  for (int64_t first = 0; first < row.groups; first += 4) {
    QuadOperand quad{};
    for (int64_t g = first; g < std::min(first + 4, row.groups); ++g) {
      const int8_t* codes = row.codes + g * kChunk;
      const int64_t place = g % 4 * (kChunk / 2);
      std::memcpy(quad.codes[0] + place, codes, kChunk / 2);
      std::memcpy(quad.codes[1] + place, codes + kChunk / 2, kChunk / 2);
      for (int64_t l = 0; l < 4; ++l) {
        const int8_t* low = codes + 4 * l;
        const int8_t* high = low + kChunk / 2;
        int32_t sum = 0;
        for (int64_t j = 0; j < 4; ++j) sum += low[j] + high[j];
        quad.begin[place / 4 + l] = -8 * sum;
        quad.factor[place / 4 + l] = 1 << row.shifts[g];
      }
    }
    std::memcpy(operand + first / 4 * static_cast<int64_t>(sizeof(quad)), &quad, sizeof(quad));
  }
}

/// Groups of 32 columns.
template <int kRows>
SUBBIT_AVX512 void dot_quads(const GroupRow& row, float* sums) {
  constexpr int64_t kUnit = 16;
  const __m512i low_mask = _mm512_set1_epi8(15);
  const __m512i by_group = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
  __m512 y[kRows];
  for (__m512& one : y) one = _mm512_setzero_ps();
  const auto* quad = reinterpret_cast<const QuadOperand*>(row.operand);
  for (int64_t first = 0; first < row.groups; first += 16) {
    const int64_t count = std::min<int64_t>(16, row.groups - first);
    const auto some = static_cast<__mmask16>((1u << count) - 1);
    __m512 scales[kRows];
    for (int r = 0; r < kRows; ++r)
      scales[r] = scales_of(row.scales + r * row.groups + first, some);
    __m512i place = by_group;  // of each lane's scale
    for (int64_t g = first; g < first + count; g += 4, ++quad) {
      const int64_t left = std::min<int64_t>(4, row.groups - g);
      const auto units = static_cast<__mmask8>((1u << (2 * left)) - 1);
      for (int r = 0; r < kRows; ++r) {
        const uint8_t* unit = row.units + (r * row.groups + g) * kUnit;
        _mm_prefetch(reinterpret_cast<const char*>(unit) + kUnitsAhead, _MM_HINT_T0);
        const __m512i v = _mm512_maskz_loadu_epi64(units, unit);
        const __m512i low = _mm512_and_si512(v, low_mask);
        const __m512i high = _mm512_and_si512(_mm512_srli_epi16(v, 4), low_mask);
        __m512i dot = _mm512_dpbusd_epi32(_mm512_loadu_si512(quad->begin), low,
                                          _mm512_loadu_si512(quad->codes[0]));
        dot = _mm512_dpbusd_epi32(dot, high, _mm512_loadu_si512(quad->codes[1]));
        const __m512i sum = _mm512_madd_epi16(dot, _mm512_loadu_si512(quad->factor));
        y[r] =
            _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_permutexvar_ps(place, scales[r]), y[r]);
      }
      place = _mm512_add_epi32(place, _mm512_set1_epi32(4));
    }
  }
  for (int r = 0; r < kRows; ++r) sums[r] = _mm512_reduce_add_ps(y[r]);
}

using Dots = void (*)(const GroupRow& row, float* sums);

/// `one`, as a function of its sum.
template <Dots kOne>
float sum_of(const GroupRow& row) {
  float sum = 0;
  kOne(row, &sum);
  return sum;
}

}  // namespace

const GroupKernel kInt4Avx2 = {"avx2", [](int64_t) { return has_avx2(); }, dot_avx2};
const GroupKernel kInt4Avx512 = {
    "avx512",
    [](int64_t group) { return group == 64 && has_avx512_vnni(); },
    sum_of<dot_pairs<1>>,
    [](int64_t groups) { return (groups + 1) / 2 * static_cast<int64_t>(sizeof(PairOperand)); },
    load_pairs,
    [](int64_t groups) { return rows_abreast(groups * 32); },
    [](const GroupRow& first, float* sums) {
      rows_abreast(first.groups * 32) == 4 ? dot_pairs<4>(first, sums) : dot_pairs<2>(first, sums);
    }};
const GroupKernel kInt4Avx512Quads = {
    "avx512 of 32",
    [](int64_t group) { return group == 32 && has_avx512_vnni(); },
    sum_of<dot_quads<1>>,
    [](int64_t groups) { return (groups + 3) / 4 * static_cast<int64_t>(sizeof(QuadOperand)); },
    load_quads,
    [](int64_t groups) { return rows_abreast(groups * 16); },
    [](const GroupRow& first, float* sums) {
      rows_abreast(first.groups * 16) == 4 ? dot_quads<4>(first, sums) : dot_quads<2>(first, sums);
    }};

}  // namespace subbit

#endif  // __x86_64__
