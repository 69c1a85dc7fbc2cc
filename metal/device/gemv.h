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

/// The vector a kernel multiplies by.
struct GemvInput {
  device const uint* qvec;
  uint chunks;
  int largest;
  uint headroom;
};

/// Rows of a quad that is not there are zeros, whatever is added to them: nobody reads them.
template <typename Chunk>
inline void add_step(thread const SignWords&, thread Chunk& chunk, device const uint4* words,
                     thread const GemvArgs& args, thread const GemvPlace& place, uint step,
                     thread const GemvInput& input, thread int* sums, thread int& total) {
  const uint quads = (args.rows + 3) / 4;
  load_chunk(chunk, input.qvec, input.chunks, args.first_chunk + step, input.largest,
             input.headroom);
  total += chunk.total * chunk.scale;
  if (place.quads[0] < quads) add_unit(words[place.quads[0] * args.chunks + step], chunk, sums);
  if (place.quads[1] < quads) add_unit(words[place.quads[1] * args.chunks + step], chunk, sums + 4);
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

template <typename Chunk>
inline void add_step(thread const Code84Words&, thread Chunk& chunk, device const uint4* words,
                     thread const GemvArgs& args, thread const GemvPlace& place, uint step,
                     thread const GemvInput& input, thread int* sums, thread int& total) {
  const uint quads = (args.rows + 3) / 4;
  const uint stored = args.chunks / 2;  // words of a row
  const uint block = step / 2;
  uint4 low[4] = {uint4(0u), uint4(0u), uint4(0u), uint4(0u)};
  uint4 high[4] = {uint4(0u), uint4(0u), uint4(0u), uint4(0u)};
  if (place.quads[0] < quads) {
    expand_code84(words + place.quads[0] * stored + 4 * block, step % 2 != 0, low);
  }
  if (place.quads[1] < quads) {
    expand_code84(words + place.quads[1] * stored + 4 * block, step % 2 != 0, high);
  }
  for (uint t = 0; t < 4; ++t) {
    load_chunk(chunk, input.qvec, input.chunks, args.first_chunk + 4 * step + t, input.largest,
               input.headroom);
    total += chunk.total * chunk.scale;
    add_unit(low[t], chunk, sums);
    add_unit(high[t], chunk, sums + 4);
  }
}

/// Row r of quad `slot` of pair p goes to integers[4 * (slot * pairs + p) + r]. Ends in a barrier.
template <typename Chunk, typename Words>
inline void multiply_signs(device const uint4* words, thread const GemvArgs& args,
                           thread const GemvPlace& place, thread const GemvInput& input,
                           threadgroup int* integers) {
  int sums[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  int total = 0;
  Chunk chunk;
  Words kind;
  const uint steps = steps_of(kind, args.chunks);
  for (uint step = place.lane; step < steps; step += place.lanes) {
    add_step(kind, chunk, words, args, place, step, input, sums, total);
  }
  for (uint i = 0; i < 8; ++i) sums[i] = 2 * sums[i] - total;
  const int sum = reduce_rows(sums, place.lane, args.lanes_log2);
  const uint copies = place.lanes / 8;  // lanes that end with the same row
  if (place.lane % copies == 0) {
    const uint row = place.lane / copies;
    integers[4 * (row / 4 * place.pairs + place.pair) + row % 4] = sum;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
}
