// One chunk of codes in registers, ready to be multiplied by sign words, in two ways that give the
// same integers. For a word w of a row, `selected(w, chunk)` is an integer r such that the chunk
// adds (2 r - total) * scale to the row's sum.
#pragma once

#include "quantized.h"

/// K1: bit planes. r is the sum of magnitudes over columns where weight and code agree in sign:
/// one XNOR, then AND, POPCOUNT and ADD for each of 7 planes, a 28-cycle stay in the complex pipe
/// that hides the rest. Two's complement would need an eighth plane.
struct PopcountChunk {
  uint sign;
  uint planes[7];
  int scale;
  int total;
};

inline void load_chunk(thread PopcountChunk& chunk, device const uint* qvec, uint chunks, uint c,
                       int largest, uint headroom) {
  const uint meta = qvec[qvec_meta_at(chunks) + c];
  const ChunkShift s = chunk_shift(meta, largest, headroom);
  device const uint* words = qvec + qvec_planes_at(chunks) + kQvecChunkWords * c;
  chunk.scale = 1 << s.shift;
  if (s.drop == 0) {  // nearly always
    const uint4 a = ((device const uint4*)words)[0];
    const uint4 b = ((device const uint4*)words)[1];
    chunk.sign = a.x;
    chunk.planes[0] = a.y;
    chunk.planes[1] = a.z;
    chunk.planes[2] = a.w;
    chunk.planes[3] = b.x;
    chunk.planes[4] = b.y;
    chunk.planes[5] = b.z;
    chunk.planes[6] = b.w;
    chunk.total = int(meta & 0xFFFFu);
  } else {  // far below the largest: the low planes fall away
    uint total = 0;
    chunk.sign = words[0];
    UNROLL
    for (uint p = 0; p < kMagnitudePlanes; ++p) {
      const uint plane = p + s.drop < kMagnitudePlanes ? words[1 + p + s.drop] : 0u;
      chunk.planes[p] = plane;
      total += popcount(plane) << p;
    }
    chunk.total = int(total);
  }
}

inline int selected(uint w, thread const PopcountChunk& chunk) {
  const uint agree = ~(w ^ chunk.sign);
  uint r = popcount(agree & chunk.planes[6]);
  r = (r << 1) + popcount(agree & chunk.planes[5]);
  r = (r << 1) + popcount(agree & chunk.planes[4]);
  r = (r << 1) + popcount(agree & chunk.planes[3]);
  r = (r << 1) + popcount(agree & chunk.planes[2]);
  r = (r << 1) + popcount(agree & chunk.planes[1]);
  r = (r << 1) + popcount(agree & chunk.planes[0]);
  return int(r);
}

/// K2: the codes themselves as floats. r is their sum over columns whose weight is +1; 32 codes add
/// up exactly. Three slots a bit against one, but no integer pipe: some chip may prefer it.
struct SelectChunk {
  float codes[32];
  int scale;
  int total;
};

inline void load_chunk(thread SelectChunk& chunk, device const uint* qvec, uint chunks, uint c,
                       int largest, uint headroom) {
  const uint meta = qvec[qvec_meta_at(chunks) + c];
  const ChunkShift s = chunk_shift(meta, largest, headroom);
  device const uint* words = qvec + qvec_codes_at() + kQvecChunkWords * c;
  chunk.scale = 1 << s.shift;
  int total = 0;
  UNROLL
  for (uint i = 0; i < 32; ++i) {
    const int code = code_of(words[i / 4], i % 4);
    const int magnitude = int(magnitude_of(code) >> s.drop);
    const int kept = code < 0 ? -magnitude : magnitude;
    chunk.codes[i] = float(kept);
    total += kept;
  }
  chunk.total = total;
}

inline int selected(uint w, thread const SelectChunk& chunk) {
  // Four sums, so that one addition need not wait for the last.
  float a = 0.0f;
  float b = 0.0f;
  float c = 0.0f;
  float d = 0.0f;
  UNROLL
  for (uint i = 0; i < 32; i += 4) {
    a += select(0.0f, chunk.codes[i], (w & (1u << i)) != 0);
    b += select(0.0f, chunk.codes[i + 1], (w & (2u << i)) != 0);
    c += select(0.0f, chunk.codes[i + 2], (w & (4u << i)) != 0);
    d += select(0.0f, chunk.codes[i + 3], (w & (8u << i)) != 0);
  }
  return int((a + b) + (c + d));
}
