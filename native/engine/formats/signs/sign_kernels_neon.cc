// The NEON sign kernel: look-ups in pair tables (pair_tables.h), one unit of 16 bytes at a time:
// one chunk, each 32-bit lane one row's word of it. About 20 instructions for 128 bits, tables kept
// in registers for two quads at once. With the dot product instructions (every Apple chip) a row's
// four bytes are added in one step, without them in pairs first.
//
// The scale plane holds four uint32 of 2^s_c a chunk, not eight int16.
#include "formats/signs/sign_kernel.h"

#if defined(__aarch64__)

#include <algorithm>
#include <arm_neon.h>
#include <cstring>

#include "base/processor.h"
#include "formats/signs/layout.h"
#include "formats/signs/neon_dot.h"
#include "formats/signs/pair_tables.h"

namespace subbit {
namespace {

constexpr int64_t kPrefetchBytes = 4096;

// ---- tables -------------------------------------------------------------------------------------

/// entries[4k + b] of one group of columns, from its N and P bytes interleaved (what a column adds
/// when its weight bit is 0 and when it is 1).
inline uint8x16_t entries_of(int8x16_t group) {
  constexpr uint8_t kLow[16] = {0, 1, 0, 1, 4, 5, 4, 5, 8, 9, 8, 9, 12, 13, 12, 13};
  constexpr uint8_t kHigh[16] = {2, 2, 3, 3, 6, 6, 7, 7, 10, 10, 11, 11, 14, 14, 15, 15};
  const uint8x16_t bytes = vreinterpretq_u8_s8(group);
  return vaddq_u8(vqtbl1q_u8(bytes, vld1q_u8(kLow)), vqtbl1q_u8(bytes, vld1q_u8(kHigh)));
}

/// The four tables of one chunk of 32 codes: pair_tables_x86.cc explains the steps.
inline void tables_of(const int8_t* codes, uint8x16_t tables[4]) {
  constexpr uint8_t kBThenG[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
  const int8x16_t zero = vdupq_n_s8(0);
  uint32x4_t g[4];
  for (int half = 0; half < 2; ++half) {
    const int8x16_t c = vld1q_s8(codes + 16 * half);
    const int8x16_t p = vmaxq_s8(c, zero);
    const int8x16_t n = vmaxq_s8(vnegq_s8(c), zero);
    g[2 * half] = vreinterpretq_u32_u8(entries_of(vzip1q_s8(n, p)));
    g[2 * half + 1] = vreinterpretq_u32_u8(entries_of(vzip2q_s8(n, p)));
  }
  const uint64x2_t low01 = vreinterpretq_u64_u32(vzip1q_u32(g[0], g[1]));
  const uint64x2_t low23 = vreinterpretq_u64_u32(vzip1q_u32(g[2], g[3]));
  const uint64x2_t high01 = vreinterpretq_u64_u32(vzip2q_u32(g[0], g[1]));
  const uint64x2_t high23 = vreinterpretq_u64_u32(vzip2q_u32(g[2], g[3]));
  const uint8x16_t b_then_g = vld1q_u8(kBThenG);
  tables[0] = vreinterpretq_u8_u64(vzip1q_u64(low01, low23));
  tables[1] = vqtbl1q_u8(vreinterpretq_u8_u64(vzip2q_u64(low01, low23)), b_then_g);
  tables[2] = vreinterpretq_u8_u64(vzip1q_u64(high01, high23));
  tables[3] = vqtbl1q_u8(vreinterpretq_u8_u64(vzip2q_u64(high01, high23)), b_then_g);
}

void load(const LoadedCodes& codes, int64_t row, uint8_t* operand) {
  const int64_t chunks = codes.chunks;
  const int64_t plane = operand_chunks(chunks) * kPlaneChunkBytes;
  for (int64_t c = 0; c < chunks; ++c) {
    uint8x16_t tables[4];
    tables_of(codes.codes.data() + (row * chunks + c) * kChunk, tables);
    uint8_t* to = operand + c * kPlaneChunkBytes;
    for (int k = 0; k < 4; ++k) vst1q_u8(to + k * plane, tables[k]);
    const uint32x4_t scale = vdupq_n_u32(1u << codes.shifts[row * chunks + c]);
    vst1q_u8(to + 4 * plane, vreinterpretq_u8_u32(scale));
  }
  for (int k = 0; k < 5; ++k) {
    std::memset(operand + k * plane + chunks * kPlaneChunkBytes, 0,
                static_cast<size_t>(plane - chunks * kPlaneChunkBytes));
  }
}

// ---- products -----------------------------------------------------------------------------------

/// Add up the four bytes of each 32-bit lane, over a few vectors: at most 8 of them.
struct DotSums {
  uint32x4_t sums = vdupq_n_u32(0);
  void add(uint8x16_t bytes) { sums = dot_u8(sums, bytes, vdupq_n_u8(1)); }
  uint32x4_t value() const { return sums; }
};
struct PairSums {
  uint16x8_t sums = vdupq_n_u16(0);
  void add(uint8x16_t bytes) { sums = vpadalq_u8(sums, bytes); }
  uint32x4_t value() const { return vpaddlq_u16(sums); }
};

/// Byte indices into the four tables for one unit of weights.
inline void indices_of(uint8x16_t v, uint8x16_t index[4]) {
  const uint8x16_t by_g4 = vreinterpretq_u8_u32(vdupq_n_u32(0x0C080400));  // 4g in byte g
  const uint8x16_t by_g = vreinterpretq_u8_u32(vdupq_n_u32(0x03020100));   // g in byte g
  const uint8x16_t low = vdupq_n_u8(3);
  const uint8x16_t mid = vdupq_n_u8(12);
  const uint8x16_t high = vshrq_n_u8(v, 4);
  index[0] = vbslq_u8(low, v, by_g4);
  index[1] = vbslq_u8(mid, v, by_g);
  index[2] = vbslq_u8(low, high, by_g4);
  index[3] = vbslq_u8(mid, high, by_g);
}

/// kQuads quads times kTokens tokens.
template <typename ByteSums, int kQuads, int kTokens>
void multiply_tile(const SignTask& task, int64_t quad, int64_t ahead, int64_t token,
                   MatrixView<int32_t> out) {
  const int64_t plane = task.operand_chunks * kPlaneChunkBytes;
  const int64_t row_bytes = task.chunks * kUnitBytes;
  const auto* units = reinterpret_cast<const uint8_t*>(task.words) + quad * row_bytes;
  const uint8_t* tables = task.operand + token * 5 * plane + task.first_chunk * kPlaneChunkBytes;
  const char* soon = ahead_at(task.words + quad * row_bytes, ahead);
  uint32x4_t sums[kTokens][kQuads];
  for (auto& token_sums : sums) {
    for (uint32x4_t& sum : token_sums) sum = vdupq_n_u32(0);
  }
  for (int64_t c = 0; c < task.chunks; ++c) {
    uint8x16_t index[kQuads][4];
    for (int q = 0; q < kQuads; ++q) {
      const uint8_t* from = units + q * row_bytes + c * kUnitBytes;
      if (kTokens == 1 && c % 4 == 0) __builtin_prefetch(soon + q * row_bytes + c * kUnitBytes);
      indices_of(vld1q_u8(from), index[q]);
    }
    for (int t = 0; t < kTokens; ++t) {
      const uint8_t* at = tables + t * 5 * plane + c * kPlaneChunkBytes;
      ByteSums words[kQuads];
      for (int k = 0; k < 4; ++k) {
        const uint8x16_t table = vld1q_u8(at + k * plane);
        for (int q = 0; q < kQuads; ++q) words[q].add(vqtbl1q_u8(table, index[q][k]));
      }
      const uint32x4_t scale = vreinterpretq_u32_u8(vld1q_u8(at + 4 * plane));
      for (int q = 0; q < kQuads; ++q) sums[t][q] = vmlaq_u32(sums[t][q], words[q].value(), scale);
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    for (int q = 0; q < kQuads; ++q) {
      const int64_t first = (quad + q) * kQuad;
      const int32x4_t twice = vreinterpretq_s32_u32(vaddq_u32(sums[t][q], sums[t][q]));
      int32_t rows[kQuad];
      vst1q_s32(rows, vsubq_s32(twice, vdupq_n_s32(task.totals[token + t])));
      std::copy_n(rows, std::min(kQuad, task.rows - first), out.row(token + t) + first);
    }
  }
}

template <typename ByteSums, int kTokens>
void multiply_tokens(const SignTask& task, int64_t token, MatrixView<int32_t> out) {
  const Ahead ahead = ahead_of(task, kPrefetchBytes);
  const auto bytes = [&](int64_t quad) { return quad < ahead.turn ? ahead.within : ahead.beyond; };
  int64_t quad = task.first_quad;
  for (; quad + 2 <= task.last_quad; quad += 2)
    multiply_tile<ByteSums, 2, kTokens>(task, quad, bytes(quad), token, out);
  for (; quad < task.last_quad; ++quad)
    multiply_tile<ByteSums, 1, kTokens>(task, quad, bytes(quad), token, out);
}

/// Tokens outermost: a few tokens' tables stay in the first-level cache while the words pass by.
template <typename ByteSums>
void multiply(const SignTask& task, MatrixView<int32_t> out) {
  int64_t token = 0;
  for (; token + 4 <= out.rows; token += 4) multiply_tokens<ByteSums, 4>(task, token, out);
  for (; token < out.rows; ++token) multiply_tokens<ByteSums, 1>(task, token, out);
}

}  // namespace

const SignKernel kNeonDotSignKernel = {"neon_dot", has_arm_dot, kPairTableChunkBytes, load,
                                       multiply<DotSums>};
const SignKernel kNeonSignKernel = {"neon", [] { return true; }, kPairTableChunkBytes, load,
                                    multiply<PairSums>};

}  // namespace subbit

#endif  // __aarch64__
