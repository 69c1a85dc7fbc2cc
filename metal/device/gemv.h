// A matrix of signs times one QVec: the integers of linear.h's pairs of quads, left in threadgroup
// memory for an epilogue. A lane is a column word: it loads a chunk's codes once and multiplies
// them with the words of eight rows, two 16-byte units that 32 lanes read as 512 bytes in a row.
#pragma once

#include "../linear.h"
#include "sign_chunk.h"

/// Where a thread stands in the geometry of linear.h.
struct GemvPlace {
  uint pair;        // inside the threadgroup
  uint quads[2];    // of the matrix
  uint lane;        // among those of the pair
  uint lanes;       // of a pair
  uint pairs;       // of the threadgroup
  uint first_pair;  // of the threadgroup
};

inline GemvPlace gemv_place(thread const GemvArgs& args, uint group, uint threads, uint index) {
  GemvPlace place;
  place.lanes = 1u << args.lanes_log2;
  place.pair = index >> args.lanes_log2;
  place.lane = index & (place.lanes - 1);
  place.pairs = gemv_pairs(threads, args.lanes_log2);
  place.first_pair = group * place.pairs;
  const uint pair = place.first_pair + place.pair;
  place.quads[0] = pair / args.pair_quads * 2 * args.pair_quads + pair % args.pair_quads;
  place.quads[1] = place.quads[0] + args.pair_quads;
  return place;
}

/// Half of the sums go to the lane `mask` away, which sends the other half.
template <uint kHalf>
inline void fold_rows(thread int* sums, uint lane, uint mask) {
  const bool upper = (lane & mask) != 0;
  UNROLL
  for (uint i = 0; i < kHalf; ++i) {
    const int send = upper ? sums[i] : sums[i + kHalf];
    const int keep = upper ? sums[i + kHalf] : sums[i];
    sums[i] = keep + simd_shuffle_xor(send, ushort(mask));
  }
}

/// Sums that the lanes of a pair hold for the same eight rows -> one row a lane: lane l of the pair
/// ends with row l >> (lanes_log2 - 3). Eight rows take 7 shuffles and the last steps, not 8
/// times 5.
inline int reduce_rows(thread int* sums, uint lane, uint lanes_log2) {
  const uint mask = 1u << (lanes_log2 - 1);
  fold_rows<4>(sums, lane, mask);
  fold_rows<2>(sums, lane, mask >> 1);
  fold_rows<1>(sums, lane, mask >> 2);
  int sum = sums[0];
  for (uint m = mask >> 3; m > 0; m >>= 1) sum += simd_shuffle_xor(sum, ushort(m));
  return sum;
}

template <typename Chunk>
inline void add_unit(uint4 w, thread const Chunk& chunk, thread int* sums) {
  sums[0] += selected(w.x, chunk) * chunk.scale;
  sums[1] += selected(w.y, chunk) * chunk.scale;
  sums[2] += selected(w.z, chunk) * chunk.scale;
  sums[3] += selected(w.w, chunk) * chunk.scale;
}

/// How a matrix's words are stored. A step is what a lane takes at a time.
struct SignWords {};    // a word a chunk
struct Code84Words {};  // half a block of 256 columns: four chunks from four words

inline uint steps_of(thread const SignWords&, uint chunks) { return chunks; }
inline uint steps_of(thread const Code84Words&, uint chunks) { return chunks / 4; }

/// A vector that a kernel multiplies by.
struct GemvInput {
  device const uint* qvec;
  uint chunks;
  int largest;
  uint headroom;
};

/// One chunk of one vector against the eight rows' words.
template <typename Chunk>
inline void add_chunk(uint4 near, uint4 far, uint c, thread const GemvInput& input,
                      thread int* sums, thread int& total) {
  Chunk chunk;
  load_chunk(chunk, input.qvec, input.chunks, c, input.largest, input.headroom);
  total += chunk.total * chunk.scale;
  add_unit(near, chunk, sums);
  add_unit(far, chunk, sums + 4);
}

/// Words are loaded once for all tokens. Rows of a quad that is not there are zeros, whatever is
/// added to them: nobody reads them.
template <typename Chunk, uint kTokens>
inline void add_step(thread const SignWords&, device const uint4* words,
                     thread const GemvArgs& args, thread const GemvPlace& place, uint step,
                     thread const GemvInput* inputs, thread int* sums, thread int* totals) {
  const uint quads = (args.rows + 3) / 4;
  uint4 near = uint4(0u);
  uint4 far = uint4(0u);
  if (place.quads[0] < quads) near = words[place.quads[0] * args.chunks + step];
  if (place.quads[1] < quads) far = words[place.quads[1] * args.chunks + step];
  UNROLL
  for (uint t = 0; t < kTokens; ++t) {
    add_chunk<Chunk>(near, far, args.first_chunk + step, inputs[t], sums + 8 * t, totals[t]);
  }
}

/// The step's four sign words of one quad, from the block's four stored words: word t of the block
/// is i0 ^ (t & 1 ? i1) ^ (t & 2 ? i2) ^ (t & 4 ? i3); the step is t = 0..3 or 4..7.
inline void expand_code84(device const uint4* stored, bool upper, thread uint4* out) {
  const uint4 first = stored[0];
  const uint4 last = stored[3];
  out[0] = upper ? first ^ last : first;
  out[1] = out[0] ^ stored[1];
  out[2] = out[0] ^ stored[2];
  out[3] = out[1] ^ stored[2];
}

template <typename Chunk, uint kTokens>
inline void add_step(thread const Code84Words&, device const uint4* words,
                     thread const GemvArgs& args, thread const GemvPlace& place, uint step,
                     thread const GemvInput* inputs, thread int* sums, thread int* totals) {
  const uint quads = (args.rows + 3) / 4;
  const uint stored = args.chunks / 2;  // words of a row
  const uint at = step / 2 * 4;
  uint4 near[4] = {uint4(0u), uint4(0u), uint4(0u), uint4(0u)};
  uint4 far[4] = {uint4(0u), uint4(0u), uint4(0u), uint4(0u)};
  const bool upper = step % 2 != 0;
  if (place.quads[0] < quads) expand_code84(words + place.quads[0] * stored + at, upper, near);
  if (place.quads[1] < quads) expand_code84(words + place.quads[1] * stored + at, upper, far);
  UNROLL
  for (uint i = 0; i < 4; ++i) {
    const uint c = args.first_chunk + 4 * step + i;
    UNROLL
    for (uint t = 0; t < kTokens; ++t) {
      add_chunk<Chunk>(near[i], far[i], c, inputs[t], sums + 8 * t, totals[t]);
    }
  }
}

/// Row r of quad `slot` of pair p of token t goes to
/// integers[8 * pairs * t + 4 * (slot * pairs + p) + r]. Ends in a barrier.
template <typename Chunk, typename Words, uint kTokens>
inline void multiply_signs(device const uint4* words, thread const GemvArgs& args,
                           thread const GemvPlace& place, thread const GemvInput* inputs,
                           threadgroup int* integers) {
  int sums[8 * kTokens];
  int totals[kTokens];
  UNROLL
  for (uint i = 0; i < 8 * kTokens; ++i) sums[i] = 0;
  UNROLL
  for (uint t = 0; t < kTokens; ++t) totals[t] = 0;
  Words kind;
  const uint steps = steps_of(kind, args.chunks);
  for (uint step = place.lane; step < steps; step += place.lanes) {
    add_step<Chunk, kTokens>(kind, words, args, place, step, inputs, sums, totals);
  }
  const uint copies = place.lanes / 8;  // lanes that end with the same row
  UNROLL
  for (uint t = 0; t < kTokens; ++t) {
    thread int* own = sums + 8 * t;
    UNROLL
    for (uint i = 0; i < 8; ++i) own[i] = 2 * own[i] - totals[t];
    const int sum = reduce_rows(own, place.lane, args.lanes_log2);
    if (place.lane % copies == 0) {
      const uint row = place.lane / copies;
      const uint at = 4 * (row / 4 * place.pairs + place.pair) + row % 4;
      integers[8 * place.pairs * t + at] = sum;
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
}
