// The sign kernel for prompts where Arm multiplies small matrices of bytes (i8mm: Apple's M2 and
// later): one instruction takes two rows times two tokens, eight columns deep. Signs are written
// out as bytes once for all tokens, a row tile at a time, and tokens in pairs once for all rows, so
// that the inner loop is loads and products:
//
// 2 quads x 4 tokens x 1 chunk: 16 + 8 + 2 loads, 32 products, 8 zeros and 8 scaled sums, 9.3
// instructions for 128 weights times a token, where looking sums up takes 13.8 (counted).
#include "formats/signs/sign_kernel.h"

#if defined(__aarch64__)

#include <algorithm>
#include <arm_neon.h>

#include "base/buffer.h"
#include "base/processor.h"
#include "formats/signs/byte_codes.h"
#include "formats/signs/layout.h"

namespace subbit {
namespace {

constexpr int64_t kPairs = kQuad / 2;    // of rows, in a quad
constexpr int64_t kGroups = kChunk / 8;  // of columns, in a chunk
constexpr int64_t kTileQuads = 2;
constexpr int64_t kTileTokens = 4;
constexpr int64_t kTilePairs = kTileTokens / 2;        // of tokens
constexpr int64_t kBlockTokens = 32;                   // packed at a time: 160 KB at 4096 columns
constexpr int64_t kQuadBytes = kPairs * kGroups * 16;  // written out, of a chunk
constexpr int64_t kTileBytes = kTilePairs * (kGroups + 1) * 16;  // of a chunk, scales included

// In assembler, so that one build serves processors with and without: gcc's takes the architecture
// from the text, clang's from the function's attribute alone.
#if defined(__clang__)
#define SUBBIT_I8MM __attribute__((target("i8mm")))
#define SUBBIT_I8MM_ARCH ""
#else
#define SUBBIT_I8MM
#define SUBBIT_I8MM_ARCH ".arch armv8.2-a+i8mm\n\t"
#endif

/// sum [2 rows, 2 tokens] += a [2 rows, 8 columns] times b [2 tokens, 8 columns].
SUBBIT_I8MM inline int32x4_t multiply_pairs(int32x4_t sum, int8x16_t a, int8x16_t b) {
  asm(SUBBIT_I8MM_ARCH "smmla %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(a), "w"(b));
  return sum;
}

/// Signs of one unit as bytes, minus the weights (-1 for a bit of 1, which a test for it gives):
/// to [row pair, group, row of the pair, 8 columns].
inline void write_out(const std::byte* unit, int8_t* to) {
  constexpr uint8_t kBits[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  constexpr uint8_t kFirst[16] = {0, 0, 0, 0, 0, 0, 0, 0, 4, 4, 4, 4, 4, 4, 4, 4};
  const uint8x16_t words = vld1q_u8(reinterpret_cast<const uint8_t*>(unit));
  const uint8x16_t bits = vld1q_u8(kBits);
  const uint8x16_t first = vld1q_u8(kFirst);
  for (int64_t pair = 0; pair < kPairs; ++pair) {
    for (int64_t group = 0; group < kGroups; ++group) {
      const auto step = static_cast<uint8_t>(8 * pair + group);
      const uint8x16_t bytes = vqtbl1q_u8(words, vaddq_u8(first, vdupq_n_u8(step)));
      const uint8x16_t minus = vorrq_u8(vtstq_u8(bytes, bits), vdupq_n_u8(1));
      vst1q_s8(to + (pair * kGroups + group) * 16, vreinterpretq_s8_u8(minus));
    }
  }
}

/// kTileTokens tokens, those past `tokens` as zeros: a chunk is [pair, group, token of the pair, 8
/// columns] and then [pair] scales in the order of a product's sums.
void pack_tokens(const SignTask& task, int64_t first, int64_t tokens, int8_t* to) {
  ByteCodes of[kTileTokens];
  for (int64_t t = 0; t < kTileTokens; ++t)
    of[t] = byte_codes_of(task, first + std::min(t, tokens - 1));
  for (int64_t c = 0; c < task.chunks; ++c, to += kTileBytes) {
    for (int64_t pair = 0; pair < kTilePairs; ++pair) {
      const ByteCodes& a = of[2 * pair];
      const ByteCodes& b = of[2 * pair + 1];
      for (int64_t group = 0; group < kGroups; ++group) {
        const int64_t column = c * kChunk + 8 * group;
        vst1q_s8(to + (pair * kGroups + group) * 16,
                 vcombine_s8(vld1_s8(a.codes + column), vld1_s8(b.codes + column)));
      }
      const int32x4_t scales = vzip1q_s32(vld1q_s32(a.scales + 4 * c), vld1q_s32(b.scales + 4 * c));
      vst1q_s32(reinterpret_cast<int32_t*>(to + (kTilePairs * kGroups + pair) * 16), scales);
    }
  }
}

/// Tokens and rows that a tile really has.
struct Part {
  int64_t first_row = 0;
  int64_t first_token = 0;
  int64_t tokens = 0;
};

/// kQuads written-out quads times one tile of packed tokens.
template <int kQuads>
SUBBIT_I8MM void multiply_tile(const SignTask& task, const int8_t* signs, const int8_t* tokens,
                               Part part, MatrixView<int32_t> out) {
  constexpr int kRowPairs = kQuads * kPairs;
  int32x4_t sums[kRowPairs][kTilePairs];
  for (auto& row : sums)
    for (int32x4_t& sum : row) sum = vdupq_n_s32(0);
  for (int64_t c = 0; c < task.chunks; ++c) {
    int32x4_t chunk[kRowPairs][kTilePairs];
    for (auto& row : chunk)
      for (int32x4_t& sum : row) sum = vdupq_n_s32(0);
    for (int64_t group = 0; group < kGroups; ++group) {
      int8x16_t b[kTilePairs];
      for (int p = 0; p < kTilePairs; ++p) b[p] = vld1q_s8(tokens + (p * kGroups + group) * 16);
      for (int r = 0; r < kRowPairs; ++r) {
        const int8x16_t a = vld1q_s8(signs + (r * kGroups + group) * 16);
        for (int p = 0; p < kTilePairs; ++p) chunk[r][p] = multiply_pairs(chunk[r][p], a, b[p]);
      }
    }
    for (int p = 0; p < kTilePairs; ++p) {
      const int8_t* at = tokens + (kTilePairs * kGroups + p) * 16;
      const int32x4_t scale = vld1q_s32(reinterpret_cast<const int32_t*>(at));
      for (int r = 0; r < kRowPairs; ++r) sums[r][p] = vmlaq_s32(sums[r][p], chunk[r][p], scale);
    }
    signs += kQuads * kQuadBytes;
    tokens += kTileBytes;
  }
  for (int r = 0; r < kRowPairs; ++r) {
    for (int p = 0; p < kTilePairs; ++p) {
      int32_t minus[4];  // [2 rows, 2 tokens]
      vst1q_s32(minus, sums[r][p]);
      for (int64_t i = 0; i < 4; ++i) {
        const int64_t row = part.first_row + 2 * r + i / 2;
        const int64_t token = 2 * p + i % 2;
        if (row < task.rows && token < part.tokens)
          out.at(part.first_token + token, row) = -minus[i];
      }
    }
  }
}

/// Quads [quad, quad + kQuads) times a block of packed tokens.
template <int kQuads>
void multiply_quads(const SignTask& task, int64_t quad, Range tokens, const int8_t* packed,
                    int8_t* signs, MatrixView<int32_t> out) {
  for (int64_t c = 0; c < task.chunks; ++c) {
    for (int64_t q = 0; q < kQuads; ++q) {
      const std::byte* unit = task.words + ((quad + q) * task.chunks + c) * kUnitBytes;
      write_out(unit, signs + (c * kQuads + q) * kQuadBytes);
    }
  }
  for (int64_t t = tokens.begin; t < tokens.end; t += kTileTokens) {
    const Part part = {quad * kQuad, t, std::min(kTileTokens, tokens.end - t)};
    multiply_tile<kQuads>(task, signs, packed, part, out);
    packed += task.chunks * kTileBytes;
  }
}

void multiply(const SignTask& task, MatrixView<int32_t> out) {
  const int64_t most = (std::min(out.rows, kBlockTokens) + kTileTokens - 1) / kTileTokens;
  Buffer<int8_t> packed(most * task.chunks * kTileBytes);
  Buffer<int8_t> signs(kTileQuads * task.chunks * kQuadBytes);
  for (int64_t first = 0; first < out.rows; first += kBlockTokens) {
    const Range tokens = {first, std::min(first + kBlockTokens, out.rows)};
    int8_t* to = packed.data();
    for (int64_t t = tokens.begin; t < tokens.end; t += kTileTokens) {
      pack_tokens(task, t, std::min(kTileTokens, tokens.end - t), to);
      to += task.chunks * kTileBytes;
    }
    int64_t quad = task.first_quad;
    for (; quad + kTileQuads <= task.last_quad; quad += kTileQuads)
      multiply_quads<kTileQuads>(task, quad, tokens, packed.data(), signs.data(), out);
    for (; quad < task.last_quad; ++quad)
      multiply_quads<1>(task, quad, tokens, packed.data(), signs.data(), out);
  }
}

}  // namespace

const SignKernel kI8mmSignKernel = {"neon_i8mm",     has_arm_i8mm, kByteCodesChunkBytes,
                                    load_byte_codes, multiply,     SignKernel::For::kPrompts};

}  // namespace subbit

#endif  // __aarch64__
