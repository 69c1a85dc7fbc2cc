// The AVX2 sign kernel: table look-ups on pairs of columns. One 32-byte load is a quad times two
// words (each 128-bit half is one chunk, four rows); the 16 slots of a byte shuffle hold four
// 4-entry tables, one for each byte of a word.
//
// Columns (8g + 2k, 8g + 2k + 1) of a word are bits 2k, 2k + 1 of its byte g. Their table holds,
// for each value b of those two weight bits, the sum of magnitudes whose signs agree: at most 254,
// one unsigned byte, exact. Slot: 4g + b for k = 0, 2 (bits already low), 4b + g for k = 1, 3, so
// that the index is an AND and an OR in every case.
//
// Block of a chunk pair, 160 bytes: tables k = 0..3 of 32 bytes (chunk 0 low half, chunk 1 high),
// then 16 int16 of 2^s_c, eight per chunk.
#include "formats/signs/sign_kernel.h"

#if defined(__x86_64__)

#include <algorithm>
#include <cstring>
#include <immintrin.h>

#include "formats/signs/layout.h"

namespace subbit {
namespace {

constexpr int64_t kTableBytes = 32;
constexpr int64_t kPairBytes = 4 * kTableBytes + 32;

#define SUBBIT_AVX2 __attribute__((target("avx2")))

/// Slot of the entry for weight bits `b` of byte `g` in table `k`.
constexpr int slot(int k, int g, int b) { return k % 2 == 0 ? 4 * g + b : 4 * b + g; }

void load_chunk(const int8_t* codes, uint8_t shift, int64_t half, uint8_t* block) {
  for (int g = 0; g < 4; ++g) {
    for (int k = 0; k < 4; ++k) {
      const int low = codes[8 * g + 2 * k];
      const int high = codes[8 * g + 2 * k + 1];
      uint8_t* table = block + k * kTableBytes + 16 * half;
      for (int b = 0; b < 4; ++b) {
        const int from_low = ((b & 1) != 0) == (low > 0) ? std::abs(low) : 0;
        const int from_high = ((b & 2) != 0) == (high > 0) ? std::abs(high) : 0;
        table[slot(k, g, b)] = static_cast<uint8_t>(from_low + from_high);
      }
    }
  }
  const int16_t scale = static_cast<int16_t>(1 << shift);
  for (int i = 0; i < 8; ++i) {
    std::memcpy(block + 4 * kTableBytes + 16 * half + 2 * i, &scale, sizeof(scale));
  }
}

void load(const LoadedCodes& codes, int64_t row, uint8_t* blocks) {
  const int64_t pairs = (codes.chunks + 1) / 2;
  std::memset(blocks + (pairs - 1) * kPairBytes, 0, kPairBytes);
  for (int64_t chunk = 0; chunk < codes.chunks; ++chunk) {
    const int64_t at = row * codes.chunks + chunk;
    load_chunk(codes.codes.data() + at * kChunk, codes.shifts[at], chunk % 2,
               blocks + chunk / 2 * kPairBytes);
  }
}

/// Byte indices into the four tables for one 32-byte load of weights.
struct PairIndices {
  __m256i k[4];
};

SUBBIT_AVX2 inline PairIndices indices_of(__m256i v) {
  const __m256i by_g4 = _mm256_set1_epi32(0x0C080400);  // 4g in byte g
  const __m256i by_g = _mm256_set1_epi32(0x03020100);   // g in byte g
  const __m256i low = _mm256_set1_epi8(3);
  const __m256i mid = _mm256_set1_epi8(12);
  const __m256i high = _mm256_srli_epi16(v, 4);
  return {{_mm256_or_si256(_mm256_and_si256(v, low), by_g4),
           _mm256_or_si256(_mm256_and_si256(v, mid), by_g),
           _mm256_or_si256(_mm256_and_si256(high, low), by_g4),
           _mm256_or_si256(_mm256_and_si256(high, mid), by_g)}};
}

/// Agreement of one load with one token's block, eight int32: rows 0..3 of each chunk.
SUBBIT_AVX2 inline __m256i look_up(const PairIndices& index, const uint8_t* block) {
  const __m256i ones = _mm256_set1_epi8(1);
  __m256i sum = _mm256_setzero_si256();
  for (int k = 0; k < 4; ++k) {
    const __m256i table =
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + k * kTableBytes));
    const __m256i bytes = _mm256_shuffle_epi8(table, index.k[k]);
    sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(bytes, ones));
  }
  const __m256i scale =
      _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + 4 * kTableBytes));
  return _mm256_madd_epi16(sum, scale);
}

/// Tokens that share one set of indices: four accumulators and the indices fit the registers.
template <int kTokens>
SUBBIT_AVX2 void multiply_quad(const SignTask& task, int64_t quad, int64_t token,
                               MatrixView<int32_t> out) {
  const std::byte* units = task.words + quad * task.chunks * kUnitBytes;
  const uint8_t* blocks = task.blocks + token * task.block_stride;
  __m256i sums[kTokens];
  for (int t = 0; t < kTokens; ++t) sums[t] = _mm256_setzero_si256();
  for (int64_t pair = 0; pair < task.chunks / 2; ++pair) {
    const PairIndices index = indices_of(
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(units + pair * 2 * kUnitBytes)));
    for (int t = 0; t < kTokens; ++t) {
      const uint8_t* block = blocks + t * task.block_stride + pair * kPairBytes;
      sums[t] = _mm256_add_epi32(sums[t], look_up(index, block));
    }
  }
  if (task.chunks % 2 != 0) {
    // The other half of this block may belong to another term's columns: keep the low half only.
    const __m128i last =
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(units + (task.chunks - 1) * kUnitBytes));
    const PairIndices index = indices_of(_mm256_zextsi128_si256(last));
    for (int t = 0; t < kTokens; ++t) {
      const uint8_t* block = blocks + t * task.block_stride + task.chunks / 2 * kPairBytes;
      const __m128i half = _mm256_castsi256_si128(look_up(index, block));
      sums[t] = _mm256_add_epi32(sums[t], _mm256_zextsi128_si256(half));
    }
  }
  const int64_t rows = std::min(kQuad, task.rows - quad * kQuad);
  for (int t = 0; t < kTokens; ++t) {
    int32_t agreement[kQuad];
    _mm_storeu_si128(
        reinterpret_cast<__m128i*>(agreement),
        _mm_add_epi32(_mm256_castsi256_si128(sums[t]), _mm256_extracti128_si256(sums[t], 1)));
    for (int64_t i = 0; i < rows; ++i) {
      out.at(token + t, quad * kQuad + i) = 2 * agreement[i] - task.totals[token + t];
    }
  }
}

SUBBIT_AVX2 void multiply(const SignTask& task, MatrixView<int32_t> out) {
  for (int64_t quad = task.first_quad; quad < task.last_quad; ++quad) {
    int64_t token = 0;
    for (; token + 4 <= out.rows; token += 4) multiply_quad<4>(task, quad, token, out);
    for (; token < out.rows; ++token) multiply_quad<1>(task, quad, token, out);
  }
}

bool usable() { return __builtin_cpu_supports("avx2") != 0; }

}  // namespace

const SignKernel kAvx2SignKernel = {"avx2", usable, kPairBytes, load, multiply};

}  // namespace subbit

#endif  // __x86_64__
