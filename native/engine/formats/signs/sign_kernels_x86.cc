// The AVX2 sign kernel: look-ups in pair tables (pair_tables.h). One 32-byte load is a quad times
// two words: each 128-bit half is one chunk, four rows. Some 25 instructions for 256 bits.
#include "formats/signs/sign_kernel.h"

#if defined(__x86_64__)

#include <algorithm>
#include <immintrin.h>

#include "base/processor.h"
#include "formats/signs/layout.h"
#include "formats/signs/pair_tables.h"

namespace subbit {
namespace {

#define SUBBIT_AVX2 __attribute__((target("avx2")))

constexpr int64_t kPrefetchBytes = 8192;  // as the AVX-512 kernel measures it

SUBBIT_AVX2 inline __m256i load32(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
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

/// Agreement of one load with one token's tables, eight int32: rows 0..3 of each chunk.
SUBBIT_AVX2 inline __m256i look_up(const PairIndices& index, const uint8_t* tables, int64_t plane) {
  const __m256i ones = _mm256_set1_epi8(1);
  __m256i sum = _mm256_setzero_si256();
  for (int k = 0; k < 4; ++k) {
    const __m256i bytes = _mm256_shuffle_epi8(load32(tables + k * plane), index.k[k]);
    sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(bytes, ones));
  }
  return _mm256_madd_epi16(sum, load32(tables + 4 * plane));
}

/// Tokens that share one set of indices: four accumulators and the indices fit the registers.
template <int kTokens>
SUBBIT_AVX2 void multiply_quad(const SignTask& task, int64_t quad, int64_t ahead, int64_t token,
                               MatrixView<int32_t> out) {
  const int64_t plane = task.operand_chunks * kPlaneChunkBytes;
  const std::byte* units = task.words + quad * task.chunks * kUnitBytes;
  const uint8_t* tables = task.operand + token * 5 * plane + task.first_chunk * kPlaneChunkBytes;
  const char* soon = ahead_at(units, ahead);
  __m256i sums[kTokens];
  for (int t = 0; t < kTokens; ++t) sums[t] = _mm256_setzero_si256();
  for (int64_t c = 0; c + 2 <= task.chunks; c += 2) {
    const std::byte* from = units + c * kUnitBytes;
    if (kTokens == 1) _mm_prefetch(soon + c * kUnitBytes, _MM_HINT_T0);
    const PairIndices index = indices_of(load32(from));
    for (int t = 0; t < kTokens; ++t) {
      const uint8_t* at = tables + t * 5 * plane + c * kPlaneChunkBytes;
      sums[t] = _mm256_add_epi32(sums[t], look_up(index, at, plane));
    }
  }
  if (task.chunks % 2 != 0) {
    // The other half of these tables may belong to another term's columns: keep the low half only.
    const int64_t c = task.chunks - 1;
    const __m128i last = _mm_loadu_si128(reinterpret_cast<const __m128i*>(units + c * kUnitBytes));
    const PairIndices index = indices_of(_mm256_zextsi128_si256(last));
    for (int t = 0; t < kTokens; ++t) {
      const uint8_t* at = tables + t * 5 * plane + c * kPlaneChunkBytes;
      const __m128i half = _mm256_castsi256_si128(look_up(index, at, plane));
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

template <int kTokens>
SUBBIT_AVX2 void multiply_tokens(const SignTask& task, int64_t token, MatrixView<int32_t> out) {
  const Ahead ahead = ahead_of(task, kPrefetchBytes);
  for (int64_t quad = task.first_quad; quad < ahead.turn; ++quad)
    multiply_quad<kTokens>(task, quad, ahead.within, token, out);
  for (int64_t quad = ahead.turn; quad < task.last_quad; ++quad)
    multiply_quad<kTokens>(task, quad, ahead.beyond, token, out);
}

/// Tokens outermost: a few tokens' tables stay in the nearest caches while the words pass by.
SUBBIT_AVX2 void multiply(const SignTask& task, MatrixView<int32_t> out) {
  int64_t token = 0;
  for (; token + 4 <= out.rows; token += 4) multiply_tokens<4>(task, token, out);
  for (; token < out.rows; ++token) multiply_tokens<1>(task, token, out);
}

}  // namespace

const SignKernel kAvx2SignKernel = {"avx2", has_avx2, kPairTableChunkBytes, load_pair_tables_avx2,
                                    multiply};

}  // namespace subbit

#endif  // __x86_64__
