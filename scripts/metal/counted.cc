// The pieces of K1's and K2's inner loops, and of the prompt kernel's, as functions of their own,
// for scripts/metal/slots.js to count what clang makes of them. Not run.
#include "metal/sign_gemm.metal"
#include "metal/table_gemm.metal"
#include "metal/table_gemv.metal"

extern "C" {
/// Four words of a quad against one chunk: 128 stored bits.
void popcount_unit(uint4 w, thread const PopcountChunk& chunk, thread int* sums) {
  add_unit(w, chunk, sums);
}
void select_unit(uint4 w, thread const SelectChunk& chunk, thread int* sums) {
  add_unit(w, chunk, sums);
}
/// A chunk into registers, once for two units.
void popcount_chunk(thread PopcountChunk& chunk, device const uint* qvec, thread const uint* at) {
  load_chunk(chunk, qvec, at[0], at[1], int(at[2]), at[3]);
}
/// A thread's share of a step of sign_gemm: 16 columns of a row, 8 columns of a token.
void tile_rows(uint word, thread const TilePlace& place, threadgroup half* tiles) {
  fill_rows(word, place, tiles);
}
void tile_tokens(device const uint* qvec, thread const uint* at, thread const TilePlace& place,
                 threadgroup half* tiles) {
  const ChunkShift shift = chunk_shift(qvec[at[0]], int(at[1]), at[2]);
  // Nothing is dropped, as nearly always.
  fill_tokens(qvec + at[3], 0, int(shift.shift) - kTileShift, place, tiles);
}
/// The same of table_gemm: 16 columns of a row.
void tile_entries(thread const GemvArgs& args, device const uint* row, device const uint* table,
                  thread const uint* at, thread const TilePlace& place, threadgroup half* tiles) {
  fill_entries(args, row, table, at[0], place, tiles);
}
void move_entries(thread TileSums& sums, thread const TileWindow& window,
                  thread LongSums& integers, threadgroup float* own, thread const uint* at) {
  move_long_sums(sums, window, integers, own, at[0], at[1]);
}
/// A row's 32 columns of table_gemv.
int table_row(thread const CodeBytes& chunk, thread const GemvArgs& args, thread const uint* at,
              device const uint* row, device const uint* table) {
  return dot_row(chunk, args, at[0], row, table);
}
/// Eight rows' sums over 32 lanes, once a row.
int reduction(thread int* sums, uint lane) { return reduce_rows(sums, lane, 5); }
}
