// The tokens' side of products of a prompt that are exact (sign_gemm.metal, table_gemm.metal):
// codes of QVecs as halves in the tile, and what their exponents are.
#pragma once

#include "../linear.h"
#include "quantized.h"
#include "tiles.h"

/// Floats add up integers without rounding as long as their magnitudes add up to so much.
constant constexpr uint kExactFloat = 1u << 24;

/// The vectors of a threadgroup's tokens; those past the last repeat it.
struct TileTokens {
  device const uint* qvecs;
  uint first;
  uint last;
  uint words;  // of a QVec
};

inline device const uint* token_qvec(thread const TileTokens& tokens, uint token) {
  return tokens.qvecs + min(tokens.first + token, tokens.last) * tokens.words;
}

/// Of the threadgroup's kGemmTokens, those that exist.
inline uint token_count(thread const TileTokens& tokens) {
  return min(tokens.last + 1 - tokens.first, uint(kGemmTokens));
}

/// largest[token] for the threadgroup's tokens, and their exponents for who reads the sums.
inline void find_largest(thread const GemvArgs& args, thread const TileTokens& tokens, uint3 group,
                         uint lane, uint simdgroup, threadgroup int* largest,
                         device int* exponents) {
  for (uint t = simdgroup; t < kGemmTokens; t += kGemmSimdgroups) {
    device const uint* qvec = token_qvec(tokens, t);
    const int most = largest_exponent(qvec, args.input_chunks, lane);
    if (lane != 0) continue;
    largest[t] = most;
    if (group.x != 0 || tokens.first + t > tokens.last) continue;
    exponents[tokens.first + t] = as_type<int>(qvec[kHeaderExponent]) +
                                  sum_exponent(most, args.headroom) + int(args.rounding_shift);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
}

/// Four codes of a word as halves. A byte b of which the upper bit is flipped, behind the upper
/// byte of 1024.0h, is the half 1024 + 128 + b, exactly.
inline void unpack_codes(uint word, thread half* codes) {
  const half2 even = as_type<half2>((word & 0x00FF00FFu) ^ 0x64806480u);
  const half2 odd = as_type<half2>(((word >> 8) & 0x00FF00FFu) ^ 0x64806480u);
  codes[0] = even.x - half(1152.0f);
  codes[1] = odd.x - half(1152.0f);
  codes[2] = even.y - half(1152.0f);
  codes[3] = odd.y - half(1152.0f);
}

/// A thread's share of a chunk's codes, whose words are `words`: each without its `drop` low bits,
/// times 2^exponent.
inline void fill_tokens(device const uint* words, uint drop, int exponent,
                        thread const TilePlace& place, threadgroup half* tiles) {
  words += place.token_columns / 4;
  const half scale = half(as_type<float>(uint(127 + exponent) << 23));
  half codes[8];
  if (drop == 0) {  // nearly always
    unpack_codes(words[0], codes);
    unpack_codes(words[1], codes + 4);
  } else {
    UNROLL
    for (uint i = 0; i < 8; ++i) {
      const int code = code_of(words[i / 4], i % 4);
      const int magnitude = int(magnitude_of(code) >> drop);
      codes[i] = half(float(code < 0 ? -magnitude : magnitude));
    }
  }
  threadgroup half2* to =
      (threadgroup half2*)(tiles + token_element(place.token, place.token_columns));
  UNROLL
  for (uint i = 0; i < 4; ++i) {
    half2 pair;
    pair.x = codes[2 * i] * scale;
    pair.y = codes[2 * i + 1] * scale;
    to[i] = pair;
  }
}
