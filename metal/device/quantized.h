// Writing and reading QVecs (qvec.h): one simdgroup makes one chunk, a lane a column.
#pragma once

#include "dialect.h"

constant constexpr uint kInfinityBits = 0x7F800000u;
constant constexpr uint kTinyBits = (127u - 100u) << 23;  // 2^-100

/// Threads of any threadgroup may report; the host reads after the command buffer.
inline void set_status(device atomic_uint* status, uint bit) {
  atomic_fetch_or_explicit(status, bit, memory_order_relaxed);
}

/// A code that lies as byte `i` of a word.
inline int code_of(uint word, uint i) { return int(word << (24 - 8 * i)) >> 24; }

inline uint magnitude_of(int code) { return uint(code < 0 ? -code : code); }

/// Column `lane` of `chunk` is v; `square` is summed into the chunk's squares. All lanes call;
/// columns past the vector's end are zeros. The twin of quantize_chunk (quantized_rows.cc).
inline void write_chunk(float v, float square, uint chunk, uint chunks, uint lane,
                        device uint* qvec, device atomic_uint* status) {
  const uint largest = simd_max(as_type<uint>(v) & 0x7FFFFFFFu);
  const bool finite = largest < kInfinityBits;
  if (!finite && lane == 0) set_status(status, kStatusNonFinite);
  const bool zero = !finite || largest < kTinyBits;
  const int exponent = zero ? -128 : int((largest + 0x1FFFFu) >> 23) - 133;
  // 2^-exponent: exponents lie in [-106, 122], so it is normal.
  const float scale = as_type<float>(uint(127 - (zero ? 0 : exponent)) << 23);
  const int code = zero ? 0 : int(rint(v * scale));
  const uint magnitude = magnitude_of(code);

  uint plane = uint(simd_vote::vote_t(simd_ballot(code > 0)));
  for (uint p = 0; p < kMagnitudePlanes; ++p) {
    const uint bits = uint(simd_vote::vote_t(simd_ballot(((magnitude >> p) & 1u) != 0)));
    plane = lane == p + 1 ? bits : plane;
  }
  const uint sum = simd_sum(magnitude);
  const float squares = simd_sum(square);

  device uchar* codes = (device uchar*)(qvec + qvec_codes_at());
  codes[32 * chunk + lane] = uchar(code);
  if (lane < 8) qvec[qvec_planes_at(chunks) + 8 * chunk + lane] = plane;
  if (lane == 0) {
    qvec[qvec_meta_at(chunks) + chunk] = sum | (uint(exponent + 128) << 16);
    qvec[qvec_squares_at(chunks) + chunk] = as_type<uint>(squares);
  }
  if (chunk == chunks - 1 && lane < pad4(chunks) - chunks) {
    qvec[qvec_meta_at(chunks) + chunks + lane] = 0;
    qvec[qvec_squares_at(chunks) + chunks + lane] = 0;
  }
}

/// A vector that a norm made: rho follows from the squares that its chunks hold.
inline void write_norm_header(uint columns, float eps, device uint* qvec) {
  qvec[kHeaderExponent] = 0;
  qvec[kHeaderColumns] = columns;
  qvec[kHeaderRho] = as_type<uint>(eps);
  qvec[3] = 0;
}

inline void write_header(int exponent, float rho, device uint* qvec) {
  qvec[kHeaderExponent] = as_type<uint>(exponent);
  qvec[kHeaderColumns] = 0;
  qvec[kHeaderRho] = as_type<uint>(rho);
  qvec[3] = 0;
}

/// The row scale of the true input. All lanes call.
inline float read_rho(device const uint* qvec, uint chunks, uint lane) {
  const uint columns = qvec[kHeaderColumns];
  const float word = as_type<float>(qvec[kHeaderRho]);
  if (columns == 0) return word;
  device const float* squares = (device const float*)(qvec + qvec_squares_at(chunks));
  float sum = 0.0f;
  for (uint c = lane; c < chunks; c += kSimdLanes) sum += squares[c];
  sum = simd_sum(sum);
  return 1.0f / sqrt(sum / float(columns) + word);
}

/// e*, the largest exponent of the vector; -128 for a vector of zeros. All lanes call.
inline int largest_exponent(device const uint* qvec, uint chunks, uint lane) {
  device const uint4* meta = (device const uint4*)(qvec + qvec_meta_at(chunks));
  uint most = 0;
  for (uint c = lane; c < pad4(chunks) / 4; c += kSimdLanes) {
    const uint4 m = meta[c];  // the exponent is the upper half: words compare like exponents
    most = max(most, max(max(m.x, m.y), max(m.z, m.w)));
  }
  return int(simd_max(most) >> 16) - 128;
}

/// What a chunk's codes are shifted by on their way to the vector's common exponent: m = |q| >>
/// drop, then times 2^shift (formats/signs/loaded_codes.h).
struct ChunkShift {
  uint drop;
  uint shift;
};

inline ChunkShift chunk_shift(uint meta, int largest, uint headroom) {
  const int below = largest - (int(meta >> 16) - 128);
  ChunkShift s;
  s.drop = uint(clamp(below - int(headroom), 0, 7));
  s.shift = uint(max(int(headroom) - below, 0));
  return s;
}

/// The exponent of the integers that a vector with largest exponent `largest` yields.
inline int sum_exponent(int largest, uint headroom) {
  return largest == -128 ? 0 : largest - int(headroom);
}
