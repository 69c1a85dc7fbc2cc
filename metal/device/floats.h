// Reading one element of a stored float array, whatever its type. bfloat16 is read as its bits: the
// type itself is newer than the baseline.
#pragma once

#include "dialect.h"

struct StoredF32 {};
struct StoredF16 {};
struct StoredBf16 {};

inline float read_stored(thread const StoredF32&, device const uchar* data, uint at) {
  return ((device const float*)data)[at];
}
inline float read_stored(thread const StoredF16&, device const uchar* data, uint at) {
  return float(((device const half*)data)[at]);
}
inline float read_stored(thread const StoredBf16&, device const uchar* data, uint at) {
  return as_type<float>(uint(((device const ushort*)data)[at]) << 16);
}

inline uint element_bytes(thread const StoredF32&) { return 4; }
inline uint element_bytes(thread const StoredF16&) { return 2; }
inline uint element_bytes(thread const StoredBf16&) { return 2; }
