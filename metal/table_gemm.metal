// Vectors of a shared table times a prompt by simdgroup_matrix, with the integers of table_gemv to
// the bit. A tile holds the entries themselves, and codes times powers of two, so that its float
// sums are exact until they could pass 2^24. An entry is seven bits where a sign is none: only
// codes of about one exponent fit such a sum, and it moves into integers of two words whenever a
// chunk's exponent leaves that range. Twin: formats/table.
#include "device/epilogue.h"
#include "device/token_tiles.h"

/// Codes go into the tile times 2^0 to 2^8: 127 * 2^8 is a half.
constant constexpr uint kMostTileShift = 8;
/// A sum begins so many exponents below its first chunk's: those of a vector of activations are
/// mostly within one of each other, and each step costs half of what fits.
constant constexpr uint kRoomBelow = 2;
constant constexpr uint kLargestEntry = 127;

/// The tile's sums of one token are its integers over 2^base; `bound` is what they can have
/// reached.
struct TileWindow {
  uint base;
  uint bound;
};

/// Whether a chunk of `magnitudes` = sum |q_j| cannot be added to what the window holds.
inline bool leaves_window(thread const TileWindow& window, uint magnitudes, uint shift) {
  if (magnitudes == 0) return false;
  if (shift < window.base || shift > window.base + kMostTileShift) return true;
  return window.bound + (kLargestEntry * magnitudes << (shift - window.base)) > kExactFloat;
}

/// A thread's share of the entries that a chunk of its row names. `row` points at the row's first
/// word; words of a row lie a unit of four apart.
inline void fill_entries(thread const GemvArgs& args, device const uint* row,
                         device const uint* table, uint step, thread const TilePlace& place,
                         threadgroup half* tiles) {
  const uint width_log2 = ctz(args.table_width);
  threadgroup half* to = tiles + row_element(place.row, place.row_columns);
  UNROLL
  for (uint four = 0; four < 4; ++four) {
    const uint column = kGemmColumns * step + place.row_columns + 4 * four;
    const uint vector = column >> width_log2;
    half entries[4] = {half(0.0f), half(0.0f), half(0.0f), half(0.0f)};
    if (vector < args.vectors) {
      const uint index = (row[4 * (vector / 4)] >> (8 * (vector % 4))) & 0xFFu;
      const uint first = (index << width_log2) + (column & (args.table_width - 1));
      unpack_codes(table[first / 4], entries);
    }
    UNROLL
    for (uint i = 0; i < 4; ++i) {
      const uint j = 4 * four + i;
      to[64 * (j / 8) + 8 * (j % 8)] = entries[i];
    }
  }
}

/// Integers of up to 38 bits: high * 2^16 + low.
struct LongSums {
  int low[16];
  int high[16];
};

/// integers += sums, which are then zero. `window` is that of token `lane` of the threadgroup.
inline void move_long_sums(thread TileSums& sums, thread const TileWindow& window,
                           thread LongSums& integers, threadgroup float* own, uint lane,
                           uint simdgroup) {
  float values[16];
  read_sums(sums, own, lane, values);
  UNROLL
  for (uint i = 0; i < 16; ++i) {
    const uint base = simd_shuffle(window.base, ushort(sum_place(i, lane, simdgroup).token));
    const int value = int(values[i]);
    const int low = integers.low[i] + int((uint(value) << base) & 0xFFFFu);
    integers.high[i] += (value >> (16 - base)) + (low >> 16);
    integers.low[i] = low & 0xFFFF;
  }
  clear_sums(sums);
}

inline void multiply_entries(thread const GemvArgs& args, device const uint* words,
                             device const uint* table, thread const TileTokens& tokens, uint3 group,
                             thread const TilePlace& place, uint lane, uint simdgroup,
                             threadgroup half* tiles, threadgroup float* own,
                             threadgroup const int* largest, thread LongSums& integers) {
  const int filled_largest = largest[place.token];
  const int watched_largest = largest[lane];
  device const uint* filled = token_qvec(tokens, place.token);
  device const uint* watched = token_qvec(tokens, lane);
  const uint row = min(kGemmRows * group.x + place.row, args.rows - 1);
  device const uint* indices = words + 4 * (row / 4 * ((args.vectors + 3) / 4)) + row % 4;
  TileSums sums;
  clear_sums(sums);
  TileWindow window = {0, 0};
  for (uint step = 0; step < args.chunks; ++step) {
    const uint c = args.first_chunk + step;
    const uint watched_meta = watched[qvec_meta_at(args.input_chunks) + c];
    const uint magnitudes = watched_meta & 0xFFFFu;
    const uint shift = chunk_shift(watched_meta, watched_largest, args.headroom).shift;
    // The same in every simdgroup, so that all go the same way.
    if (simd_any(leaves_window(window, magnitudes, shift))) {
      move_long_sums(sums, window, integers, own, lane, simdgroup);
      if (magnitudes != 0) window.base = max(shift, kRoomBelow) - kRoomBelow;
      window.bound = 0;
    }
    if (magnitudes != 0) window.bound += kLargestEntry * magnitudes << (shift - window.base);
    const uint filled_base = simd_shuffle(window.base, ushort(place.token));
    const uint filled_meta = filled[qvec_meta_at(args.input_chunks) + c];
    const ChunkShift filled_shift = chunk_shift(filled_meta, filled_largest, args.headroom);
    // A chunk of zeros has no part in the window: whatever it is scaled by, it stays zero.
    const int exponent = clamp(int(filled_shift.shift) - int(filled_base), 0, int(kMostTileShift));
    fill_entries(args, indices, table, step, place, tiles);
    fill_tokens(filled + qvec_codes_at() + kQvecChunkWords * c, filled_shift.drop, exponent, place,
                tiles);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    multiply_tiles(sums, tiles, token_count(tokens), simdgroup);
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
  move_long_sums(sums, window, integers, own, lane, simdgroup);
}

KERNEL(table_gemm_sums,
       (constant GemvArgs & gemv_args [[buffer(0)]],
        constant EpilogueArgs& epilogue_args [[buffer(1)]], device const uint* words [[buffer(2)]],
        device const uint* qvec [[buffer(3)]], device int* sums [[buffer(4)]],
        device int* exponents [[buffer(5)]], device const uint* table [[buffer(6)]],
        threadgroup half* tiles THREADGROUP(0), THREAD)) {
  const GemvArgs args = gemv_args;
  const TileTokens tokens = {qvec, kGemmTokens * group.y, args.tokens - 1,
                             qvec_words(args.input_chunks)};
  threadgroup float* reading = (threadgroup float*)(tiles + kGemmElements);
  threadgroup int* largest = (threadgroup int*)(reading + 64 * kGemmSimdgroups);
  find_largest(args, tokens, group, lane, simdgroup, largest, exponents);
  LongSums integers;
  UNROLL
  for (uint i = 0; i < 16; ++i) {
    integers.low[i] = 0;
    integers.high[i] = 0;
  }
  multiply_entries(args, words, table, tokens, group, tile_place(index), lane, simdgroup, tiles,
                   reading + 64 * simdgroup, largest, integers);
  const long half_unit = args.rounding_shift == 0 ? 0 : long(1) << (args.rounding_shift - 1);
  UNROLL
  for (uint i = 0; i < 16; ++i) {
    const SumPlace place = sum_place(i, lane, simdgroup);
    const uint token = tokens.first + place.token;
    const uint row = kGemmRows * group.x + place.row;
    if (token > tokens.last || row >= args.rows) continue;
    const long exact = long(integers.high[i]) * 65536 + long(integers.low[i]);
    sums[token * epilogue_args.y_stride + row] = int((exact + half_unit) >> args.rounding_shift);
  }
}
