// Pair tables: codes laid out so that a byte shuffle multiplies. The 16 slots of one shuffle hold
// four 4-entry tables, one for each byte of a word.
//
// Columns (8g + 2k, 8g + 2k + 1) of a word are bits 2k, 2k + 1 of its byte g. Their table holds,
// for each value b of those two weight bits, the sum of magnitudes whose signs agree: at most 254,
// one unsigned byte, exact. Slot: 4g + b for k = 0, 2 (bits already low), 4b + g for k = 1, 3, so
// that the index is the word masked, with g put into the other two bits, in every case.
//
// A token's operand is five planes of 16 bytes a chunk: tables k = 0..3, then 2^s_c as eight int16.
// Padding chunks are zero, scale included. Planes let every vector width load whole chunks.
#pragma once

#include <cstdint>

#include "formats/signs/loaded_codes.h"

namespace subbit {

inline constexpr int64_t kPlaneChunkBytes = 16;
inline constexpr int64_t kPairTableChunkBytes = 5 * kPlaneChunkBytes;

#if defined(__x86_64__)
/// Lays out one token; needs AVX2.
void load_pair_tables_avx2(const LoadedCodes& codes, int64_t row, uint8_t* operand);
#endif

}  // namespace subbit
