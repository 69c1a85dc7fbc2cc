// Reading one element of a stored row, whatever its type. bfloat16 is read as its bits: the
// type itself is newer than the baseline.
#pragma once

#include "dialect.h"

struct StoredF32 {};
struct StoredF16 {};
struct StoredBf16 {};
struct StoredI8 {};  // codes, zeros to a multiple of four, a float scale

inline float read_stored(thread const StoredF32&, device const uchar* data, uint at) {
  return ((device const float*)data)[at];
}
inline float read_stored(thread const StoredF16&, device const uchar* data, uint at) {
  return float(((device const half*)data)[at]);
}
inline float read_stored(thread const StoredBf16&, device const uchar* data, uint at) {
  return as_type<float>(uint(((device const ushort*)data)[at]) << 16);
}

inline float read_stored(thread const StoredI8&, device const uchar* data, uint at) {
  return float(int(uint(data[at]) << 24) >> 24);
}

/// Bytes of a row, and what its elements are multiplied by.
inline uint row_bytes(thread const StoredF32&, uint columns) { return 4 * columns; }
inline uint row_bytes(thread const StoredF16&, uint columns) { return 2 * columns; }
inline uint row_bytes(thread const StoredI8&, uint columns) { return (columns + 3) / 4 * 4 + 4; }

inline float row_scale_of(thread const StoredF32&, device const uchar*, uint) { return 1.0f; }
inline float row_scale_of(thread const StoredF16&, device const uchar*, uint) { return 1.0f; }
inline float row_scale_of(thread const StoredI8&, device const uchar* row, uint columns) {
  return ((device const float*)(row + (columns + 3) / 4 * 4))[0];
}
