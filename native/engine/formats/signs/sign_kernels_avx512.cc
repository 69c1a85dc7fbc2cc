// The AVX-512 sign kernel: look-ups in pair tables (pair_tables.h). One 64-byte load is a quad
// times four words: each 128-bit lane is one chunk, each 32-bit lane one row's word of it.
//
// Per load: a shift and four masked-or for the indices, four shuffles, four vpdpbusd that add the
// four bytes of each row straight into 32 bits, and one vpdpwssd that scales by 2^s_c and adds up:
// 15 instructions for 512 bits, 0.03 a bit. That is about 4 cycles on four vector pipes, so what
// binds is the memory the words come from.
#include "formats/signs/sign_kernel.h"

#if defined(__x86_64__)

#include <algorithm>
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 takes its own headers' undefined registers for a mistake (its bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include "base/processor.h"
#include "formats/signs/layout.h"
#include "formats/signs/pair_tables.h"

namespace subbit {
namespace {

#define SUBBIT_AVX512 \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")))

constexpr int64_t kStepChunks = 4;  // of one 64-byte load
constexpr int64_t kLineUnits = 4;   // units of a cache line

/// How far ahead of the words prefetches run. One Zen 5 core, which reads 270 to 310 Gbit/s in a
/// plain loop, multiplied whole 7B linears of 4096 columns from memory, at ranks 2432, 1600 and
/// 2720, at 268-294, 236-255 and 244-259 Gbit/s with 12.5 KiB; 259-269, 230-235 and 240-259 with
/// 9.5; 235-272, 216-248 and 174-188 with 8. Not a multiple of a page: where rows are 2 KiB, all
/// that is in flight would compete for few sets of the cache.
constexpr int64_t kPrefetchBytes = 12800;
/// From 6400 columns on the tables, 16 KiB, crowd the first-level cache: four quads abreast share
/// each load of a table. Where their rows are whole cache lines that is worth it from 3328 columns
/// on. Each row's prefetches run so far ahead of its words. From memory, in Gbit/s: 11008 columns
/// 306, with prefetches along the memory (which have to run 24 KiB ahead, past what the cache holds
/// beside the tables) 273, one quad at a time 125; 4096 columns 304, one at a time 280.
constexpr int64_t kWideChunks = 200;
constexpr int64_t kWideChunksInLines = 104;
constexpr int64_t kPrefetchBytesAbreast = 3584;

SUBBIT_AVX512 inline __m512i load64(const void* from) { return _mm512_loadu_si512(from); }

/// (v & mask) | bits.
SUBBIT_AVX512 inline __m512i masked_or(__m512i v, __m512i mask, __m512i bits) {
  return _mm512_ternarylogic_epi32(v, mask, bits, 0xEA);
}

/// Byte indices into the four tables for one load of weights.
SUBBIT_AVX512 inline void indices_of(__m512i v, __m512i index[4]) {
  const __m512i by_g4 = _mm512_set1_epi32(0x0C080400);  // 4g in byte g
  const __m512i by_g = _mm512_set1_epi32(0x03020100);   // g in byte g
  const __m512i low = _mm512_set1_epi8(3);
  const __m512i mid = _mm512_set1_epi8(12);
  const __m512i high = _mm512_srli_epi16(v, 4);
  index[0] = masked_or(v, low, by_g4);
  index[1] = masked_or(v, mid, by_g);
  index[2] = masked_or(high, low, by_g4);
  index[3] = masked_or(high, mid, by_g);
}

/// sums[q] += agreement of kQuads loads of weights, by their indices, with one token's tables.
template <int kQuads>
SUBBIT_AVX512 inline void look_up(const __m512i (&index)[kQuads][4], const uint8_t* tables,
                                  int64_t plane, __m512i scale, __m512i sums[kQuads]) {
  const __m512i ones = _mm512_set1_epi8(1);
  __m512i words[kQuads];
  for (int q = 0; q < kQuads; ++q) words[q] = _mm512_setzero_si512();
  for (int k = 0; k < 4; ++k) {
    const __m512i table = load64(tables + k * plane);
    for (int q = 0; q < kQuads; ++q) {
      words[q] = _mm512_dpbusd_epi32(words[q], _mm512_shuffle_epi8(table, index[q][k]), ones);
    }
  }
  // A word's sum is below 2^15, so the upper half of its lane is zero and adds nothing.
  for (int q = 0; q < kQuads; ++q) sums[q] = _mm512_dpwssd_epi32(sums[q], words[q], scale);
}

SUBBIT_AVX512 inline void store(const SignTask& task, __m512i sum, int64_t quad, int64_t token,
                                MatrixView<int32_t> out) {
  const __m256i half =
      _mm256_add_epi32(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64(sum, 1));
  const __m128i rows =
      _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  const __m128i result =
      _mm_sub_epi32(_mm_add_epi32(rows, rows), _mm_set1_epi32(task.totals[token]));
  const int64_t count = std::min(kQuad, task.rows - quad * kQuad);
  _mm_mask_storeu_epi32(out.row(token) + quad * kQuad, static_cast<__mmask8>((1 << count) - 1),
                        result);
}

/// kQuads quads times kTokens tokens: tables are loaded once for all quads, indices formed once for
/// all tokens, and accumulators stay in registers along the row.
template <int kQuads, int kTokens>
SUBBIT_AVX512 void multiply_tile(const SignTask& task, int64_t quad, int64_t token,
                                 MatrixView<int32_t> out) {
  const int64_t plane = task.operand_chunks * kPlaneChunkBytes;
  const int64_t row_bytes = task.chunks * kUnitBytes;
  const std::byte* units = task.words + quad * row_bytes;
  const uint8_t* tables = task.operand + token * 5 * plane + task.first_chunk * kPlaneChunkBytes;
  // Beyond its end a row's prefetches go on in its row of the next quads, or in what comes then.
  const int64_t own = row_bytes - kPrefetchBytesAbreast;
  const bool ends = kTokens == 1 && task.then != nullptr && quad + kQuads >= task.last_quad;
  const std::byte* next = ends ? task.then : units + kQuads * row_bytes;
  const int64_t next_row = ends ? kPrefetchBytesAbreast : row_bytes;
  __m512i sums[kTokens][kQuads];
  for (auto& token_sums : sums) {
    for (__m512i& sum : token_sums) sum = _mm512_setzero_si512();
  }
  const int64_t whole = task.chunks / kStepChunks * kStepChunks;
  for (int64_t c = 0; c < whole; c += kStepChunks) {
    __m512i index[kQuads][4];
    for (int q = 0; q < kQuads; ++q) {
      const std::byte* from = units + q * row_bytes + c * kUnitBytes;
      if (kTokens == 1) {
        const int64_t past = c * kUnitBytes - own;
        _mm_prefetch(past < 0 ? from + kPrefetchBytesAbreast : next + q * next_row + past,
                     _MM_HINT_T0);
      }
      indices_of(load64(from), index[q]);
    }
    for (int t = 0; t < kTokens; ++t) {
      const uint8_t* at = tables + t * 5 * plane + c * kPlaneChunkBytes;
      look_up<kQuads>(index, at, plane, load64(at + 4 * plane), sums[t]);
    }
  }
  if (const int64_t rest = task.chunks - whole; rest != 0) {
    // The words end here and the tables may go on with another term's columns: scales of zero
    // silence them.
    const auto mask = static_cast<__mmask8>((1 << (2 * rest)) - 1);
    __m512i index[kQuads][4];
    for (int q = 0; q < kQuads; ++q) {
      const std::byte* from = units + q * row_bytes + whole * kUnitBytes;
      indices_of(_mm512_maskz_loadu_epi64(mask, from), index[q]);
    }
    for (int t = 0; t < kTokens; ++t) {
      const uint8_t* at = tables + t * 5 * plane + whole * kPlaneChunkBytes;
      const __m512i scale = _mm512_maskz_loadu_epi64(mask, at + 4 * plane);
      look_up<kQuads>(index, at, plane, scale, sums[t]);
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    for (int q = 0; q < kQuads; ++q) store(task, sums[t][q], quad + q, token + t, out);
  }
}

/// One quad times one token. Its words begin `kInLine` units into a cache line and are loaded in
/// whole lines, two of which make a step: rows of an odd number of chunks would otherwise cross a
/// line with nearly every load, at 60 % of the speed. kInLine 0 reads nothing but the quad's own
/// words; others up to the end of a line.
template <int kInLine>
SUBBIT_AVX512 void multiply_quad(const SignTask& task, int64_t quad, int64_t ahead, int64_t token,
                                 MatrixView<int32_t> out) {
  const int64_t plane = task.operand_chunks * kPlaneChunkBytes;
  const std::byte* units = task.words + quad * task.chunks * kUnitBytes;
  const std::byte* line = units - kInLine * kUnitBytes;
  const char* soon = ahead_at(units, ahead);
  const uint8_t* tables = task.operand + token * 5 * plane + task.first_chunk * kPlaneChunkBytes;
  const int64_t whole = task.chunks / kStepChunks * kStepChunks;
  __m512i sum = _mm512_setzero_si512();
  __m512i index[1][4];
  __m512i current = _mm512_setzero_si512();
  if (kInLine != 0 && whole != 0)
    current = _mm512_maskz_loadu_epi64(0xFF << (2 * kInLine) & 0xFF, line);
  for (int64_t c = 0; c < whole; c += kStepChunks) {
    _mm_prefetch(soon + c * kUnitBytes, _MM_HINT_T0);
    if constexpr (kInLine == 0) {
      current = load64(line + c * kUnitBytes);
      indices_of(current, index[0]);
    } else {
      const __m512i next = load64(line + (c + kLineUnits) * kUnitBytes);
      indices_of(_mm512_alignr_epi64(next, current, 2 * kInLine), index[0]);
      current = next;
    }
    const uint8_t* at = tables + c * kPlaneChunkBytes;
    look_up<1>(index, at, plane, load64(at + 4 * plane), &sum);
  }
  if (const int64_t rest = task.chunks - whole; rest != 0) {
    // Where every row leaves out three quarters of a line, one of 51 chunks from memory takes 1.6
    // times as long.
    _mm_prefetch(soon + whole * kUnitBytes, _MM_HINT_T0);
    const auto mask = static_cast<__mmask8>((1 << (2 * rest)) - 1);
    indices_of(_mm512_maskz_loadu_epi64(mask, units + whole * kUnitBytes), index[0]);
    const uint8_t* at = tables + whole * kPlaneChunkBytes;
    look_up<1>(index, at, plane, _mm512_maskz_loadu_epi64(mask, at + 4 * plane), &sum);
  }
  store(task, sum, quad, token, out);
}

SUBBIT_AVX512 void multiply_quads(const SignTask& task, Range quads, int64_t ahead, int64_t token,
                                  MatrixView<int32_t> out) {
  const auto first = reinterpret_cast<uintptr_t>(task.words) / kUnitBytes;
  for (int64_t quad = quads.begin; quad < quads.end; ++quad) {
    // The matrix's last quad may be the last of its memory.
    const bool is_last = (quad + 1) * kQuad >= task.rows;
    const auto unit = first + static_cast<uintptr_t>(quad * task.chunks);
    switch (is_last ? 0 : unit % kLineUnits) {
      case 0:
        multiply_quad<0>(task, quad, ahead, token, out);
        break;
      case 1:
        multiply_quad<1>(task, quad, ahead, token, out);
        break;
      case 2:
        multiply_quad<2>(task, quad, ahead, token, out);
        break;
      default:
        multiply_quad<3>(task, quad, ahead, token, out);
    }
  }
}

SUBBIT_AVX512 void multiply_one_token(const SignTask& task, int64_t token,
                                      MatrixView<int32_t> out) {
  int64_t quad = task.first_quad;
  const bool in_lines = task.chunks % kLineUnits == 0;
  if (task.chunks >= (in_lines ? kWideChunksInLines : kWideChunks)) {
    for (; quad + 4 <= task.last_quad; quad += 4) multiply_tile<4, 1>(task, quad, token, out);
  }
  const Ahead ahead = ahead_of(task, kPrefetchBytes);
  const int64_t turn = std::max(quad, ahead.turn);
  multiply_quads(task, {quad, turn}, ahead.within, token, out);
  multiply_quads(task, {turn, task.last_quad}, ahead.beyond, token, out);
}

SUBBIT_AVX512 void multiply_two_tokens(const SignTask& task, int64_t token,
                                       MatrixView<int32_t> out) {
  int64_t quad = task.first_quad;
  for (; quad + 4 <= task.last_quad; quad += 4) multiply_tile<4, 2>(task, quad, token, out);
  for (; quad < task.last_quad; ++quad) multiply_tile<1, 2>(task, quad, token, out);
}

/// Tokens outermost: two tokens' tables stay in the first-level cache while the words, which fit
/// the second, pass by.
SUBBIT_AVX512 void multiply(const SignTask& task, MatrixView<int32_t> out) {
  int64_t token = 0;
  for (; token + 2 <= out.rows; token += 2) multiply_two_tokens(task, token, out);
  for (; token < out.rows; ++token) multiply_one_token(task, token, out);
}

}  // namespace

const SignKernel kAvx512SignKernel = {"avx512", has_avx512_vnni, kPairTableChunkBytes,
                                      load_pair_tables_avx2, multiply};

}  // namespace subbit

#endif  // __x86_64__
