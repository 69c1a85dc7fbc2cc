// The pieces of K1's and K2's inner loops as functions of their own, for scripts/metal/slots.js to
// count what clang makes of them. Not run.
#include "metal/device/gemv.h"

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
/// Eight rows' sums over 32 lanes, once a row.
int reduction(thread int* sums, uint lane) { return reduce_rows(sums, lane, 5); }
}
