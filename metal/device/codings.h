// How a unit of each group-scaled format holds the codes of its 64 or 32 columns
// (formats/int2/int2.cc and its neighbours): eight neighbouring columns, an octet, at a time. Octet
// o is columns 8 o .. 8 o + 7 of the group, in two words of the unit whatever the format; units lie
// at multiples of four bytes.
#pragma once

#include "quantized.h"

struct Int2 {};
struct Int3 {};
struct Int4 {};
struct Int8 {};

inline uint unit_bytes(thread const Int2&, uint group) { return group / 4; }
inline uint unit_bytes(thread const Int3&, uint group) { return group / 8 * 3; }
inline uint unit_bytes(thread const Int4&, uint group) { return group / 2; }
inline uint unit_bytes(thread const Int8&, uint group) { return group; }

/// Where an octet's fields lie when a byte's fields are columns `width` apart.
struct OctetPlace {
  uint word;   // its first
  uint field;  // of each byte
};

inline OctetPlace octet_place(uint octet, uint width) {
  OctetPlace place;
  place.word = 8 * octet % width / 4;
  place.field = 8 * octet / width;
  return place;
}

inline void read_octet(thread const Int2&, device const uint* unit, uint group, uint octet,
                       thread float* codes) {
  const OctetPlace place = octet_place(octet, group / 4);
  UNROLL
  for (uint i = 0; i < 8; ++i) {
    const uint word = unit[place.word + i / 4];
    codes[i] = float(2 * int((word >> (8 * (i % 4) + 2 * place.field)) & 3u) - 3);
  }
}

inline void read_octet(thread const Int3&, device const uint* unit, uint group, uint octet,
                       thread float* codes) {
  const OctetPlace place = octet_place(octet, group / 4);
  const uint high = unit[group / 16 + octet / 4] >> (8 * (octet % 4));
  UNROLL
  for (uint i = 0; i < 8; ++i) {
    const uint word = unit[place.word + i / 4];
    const uint low = (word >> (8 * (i % 4) + 2 * place.field)) & 3u;
    codes[i] = float(2 * int(low | ((high >> i) & 1u) << 2) - 7);
  }
}

inline void read_octet(thread const Int4&, device const uint* unit, uint group, uint octet,
                       thread float* codes) {
  const OctetPlace place = octet_place(octet, group / 2);
  UNROLL
  for (uint i = 0; i < 8; ++i) {
    const uint word = unit[place.word + i / 4];
    codes[i] = float(int((word >> (8 * (i % 4) + 4 * place.field)) & 15u) - 8);
  }
}

inline void read_octet(thread const Int8&, device const uint* unit, uint, uint octet,
                       thread float* codes) {
  UNROLL
  for (uint i = 0; i < 8; ++i) codes[i] = float(code_of(unit[2 * octet + i / 4], i % 4));
}

/// One column's code.
inline float read_code(thread const Int2&, device const uchar* unit, uint group, uint column) {
  const uint width = group / 4;
  return float(2 * int((uint(unit[column % width]) >> (2 * (column / width))) & 3u) - 3);
}
inline float read_code(thread const Int3&, device const uchar* unit, uint group, uint column) {
  const uint width = group / 4;
  const uint low = (uint(unit[column % width]) >> (2 * (column / width))) & 3u;
  const uint high = (uint(unit[width + column / 8]) >> (column % 8)) & 1u;
  return float(2 * int(low | high << 2) - 7);
}
inline float read_code(thread const Int4&, device const uchar* unit, uint group, uint column) {
  const uint width = group / 2;
  return float(int((uint(unit[column % width]) >> (4 * (column / width))) & 15u) - 8);
}
inline float read_code(thread const Int8&, device const uchar* unit, uint, uint column) {
  return float(code_of(unit[column], 0));
}
