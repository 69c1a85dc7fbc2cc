// Sign matrices times a prompt by simdgroup_matrix, with sums that are those of decoding to the
// bit. A tile's floats are exact: signs, and codes times powers of two. Sums of them are exact as
// long as their magnitudes add up to at most 2^24, which every lane watches for one token by the
// A_c of its QVec; before they would pass it, the simdgroup moves its sums into integers. Of 4096
// columns of a language model's activations that happens a few times, not 128.
#include "device/epilogue.h"
#include "device/token_tiles.h"

/// Codes go into the tile times 2^(shift - 4): shifts reach 12, and 127 * 2^8 is a half.
constant constexpr int kTileShift = 4;

/// The sign word of one row and chunk.
inline uint sign_word(thread const SignWords&, device const uint* words, uint chunks, uint row,
                      uint c) {
  return words[4 * (row / 4 * chunks + c) + row % 4];
}
inline uint sign_word(thread const Code84Words&, device const uint* words, uint chunks, uint row,
                      uint c) {
  device const uint* block = words + 4 * (row / 4 * (chunks / 2) + c / 8 * 4) + row % 4;
  uint word = block[0];
  word ^= (c & 1u) != 0 ? block[4] : 0u;
  word ^= (c & 2u) != 0 ? block[8] : 0u;
  return word ^ ((c & 4u) != 0 ? block[12] : 0u);
}

/// What chunk c of a token can add to a sum, at most.
inline uint chunk_bound(thread const GemvArgs& args, device const uint* qvec, uint c, int largest) {
  const uint meta = qvec[qvec_meta_at(args.input_chunks) + c];
  return (meta & 0xFFFFu) << chunk_shift(meta, largest, args.headroom).shift;
}

inline void fill_rows(uint word, thread const TilePlace& place, threadgroup half* tiles) {
  const uint bits = word >> place.row_columns;
  threadgroup half* to = tiles + row_element(place.row, place.row_columns);
  UNROLL
  for (uint i = 0; i < 16; ++i) {
    to[64 * (i / 8) + 8 * (i % 8)] = (bits & (1u << i)) != 0 ? half(1.0f) : half(-1.0f);
  }
}

/// integers += sums, which are then zero.
inline void move_sums(thread TileSums& sums, thread int* integers, threadgroup float* own,
                      uint lane) {
  float values[16];
  read_sums(sums, own, lane, values);
  UNROLL
  for (uint i = 0; i < 16; ++i) integers[i] += int(values[i] * float(1 << kTileShift));
  clear_sums(sums);
}

template <typename Words>
inline void sign_gemm(thread const GemvArgs& args, device const uint* words,
                      thread const TileTokens& tokens, uint3 group, uint index, uint lane,
                      uint simdgroup, threadgroup half* tiles, threadgroup float* own,
                      threadgroup int* largest, device int* exponents, thread int* integers) {
  Words kind;
  const TilePlace place = tile_place(index);
  find_largest(args, tokens, group, lane, simdgroup, largest, exponents);
  const int filled_largest = largest[place.token];
  const int watched_largest = largest[lane];
  device const uint* filled = token_qvec(tokens, place.token);
  device const uint* watched = token_qvec(tokens, lane);
  const uint row = min(kGemmRows * group.x + place.row, args.rows - 1);
  TileSums sums;
  clear_sums(sums);
  UNROLL
  for (uint i = 0; i < 16; ++i) integers[i] = 0;
  uint bound = 0;
  for (uint step = 0; step < args.chunks; ++step) {
    const uint c = args.first_chunk + step;
    fill_rows(sign_word(kind, words, args.chunks, row, step), place, tiles);
    const uint meta = filled[qvec_meta_at(args.input_chunks) + c];
    const ChunkShift shift = chunk_shift(meta, filled_largest, args.headroom);
    fill_tokens(filled + qvec_codes_at() + kQvecChunkWords * c, shift.drop,
                int(shift.shift) - kTileShift, place, tiles);
    const uint more = chunk_bound(args, watched, c, watched_largest);
    // The same in every simdgroup, so that all go the same way.
    if (simd_max(bound + more) > kExactFloat) {
      move_sums(sums, integers, own, lane);
      bound = 0;
    }
    bound += more;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    multiply_tiles(sums, tiles, token_count(tokens), simdgroup);
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
  move_sums(sums, integers, own, lane);
}

#define SIGN_GEMM(name, Words)                                                                 \
  KERNEL(name, (constant GemvArgs & gemv_args [[buffer(0)]],                                   \
                constant EpilogueArgs & epilogue_args [[buffer(1)]],                           \
                device const uint* words [[buffer(2)]], device const uint* qvec [[buffer(3)]], \
                device int* sums [[buffer(4)]], device int* exponents [[buffer(5)]],           \
                threadgroup half* tiles THREADGROUP(0), THREAD)) {                             \
    const GemvArgs args = gemv_args;                                                           \
    const TileTokens tokens = {qvec, kGemmTokens * group.y, args.tokens - 1,                   \
                               qvec_words(args.input_chunks)};                                 \
    threadgroup float* reading = (threadgroup float*)(tiles + kGemmElements);                  \
    threadgroup int* largest = (threadgroup int*)(reading + 64 * kGemmSimdgroups);             \
    int integers[16];                                                                          \
    sign_gemm<Words>(args, words, tokens, group, index, lane, simdgroup, tiles,                \
                     reading + 64 * simdgroup, largest, exponents, integers);                  \
    UNROLL                                                                                     \
    for (uint i = 0; i < 16; ++i) {                                                            \
      const SumPlace place = sum_place(i, lane, simdgroup);                                    \
      const uint token = tokens.first + place.token;                                           \
      const uint row = kGemmRows * group.x + place.row;                                        \
      if (token > tokens.last || row >= args.rows) continue;                                   \
      sums[token * epilogue_args.y_stride + row] = integers[i];                                \
    }                                                                                          \
  }

SIGN_GEMM(sign_gemm_sums, SignWords)
SIGN_GEMM(code84_gemm_sums, Code84Words)

/// rank_codes: the vector between a factored linear's stages, from its sums: what the _rank
/// epilogue of the other kernels writes.
KERNEL(rank_codes,
       (constant RankCodesArgs & rank_args [[buffer(0)]], device const int* sums [[buffer(1)]],
        device const int* exponents [[buffer(2)]], device const uint* qvec [[buffer(3)]],
        device const half* s_mid [[buffer(4)]], device uint* out [[buffer(5)]],
        device atomic_uint* status [[buffer(6)]], THREAD)) {
  const RankCodesArgs args = rank_args;
  const uint chunks = chunks_of_columns(args.rank);
  const uint chunk = group.x * kGemmSimdgroups + simdgroup;
  if (chunk >= chunks) return;  // the whole simdgroup
  const uint column = 32 * chunk + lane;
  device const uint* input = qvec + group.y * qvec_words(args.input_chunks);
  device uint* to = out + group.y * qvec_words(chunks);
  float z = 0.0f;
  if (column < args.rank) {
    z = float(sums[group.y * args.rank + column]);
    if ((args.flags & kEpilogueMidScale) != 0) z = z * float(s_mid[column]);
  }
  write_chunk(z, 0.0f, chunk, chunks, lane, to, status);
  const float rho = read_rho(input, args.input_chunks, lane);
  if (index == 0 && group.x == 0) write_header(exponents[group.y], rho, to);
}
