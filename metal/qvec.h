// A quantized activation vector as the GPU kernels exchange it: codes of 32 columns with a
// power-of-two scale each, once as bytes and once as bit planes, and the two numbers that the next
// epilogue needs. The CPU's twin is formats/signs/quantized_rows.h; codes and exponents are equal
// to the bit.
//
// One token's QVec of C chunks is 32-bit words, in this order:
//
//   header  [4]           HeaderWord below
//   codes   [C][8]        q_j as signed bytes, four a word
//   planes  [C][8]        bit j of plane 0: q_j > 0; of plane 1 + p: bit p of |q_j|
//   meta    [pad4(C)]     A_c | (e_c + 128) << 16, A_c = sum |q_j|; padding is zero
//   squares [pad4(C)]     sum of h_j^2 over the chunk where a norm made the vector; padding is zero
//
// QVecs of several tokens lie qvec_words(C) apart. Buffers hold whole QVecs, aligned to 16 bytes.
#pragma once

#ifdef __METAL_VERSION__
#include <metal_stdlib>
#else
#include <cstdint>
#endif

namespace subbit {
namespace shader {

enum : uint32_t {
  kSimdLanes = 32,
  kQvecHeaderWords = 4,
  kQvecChunkWords = 8,  // of codes, and again of planes
  kMagnitudePlanes = 7,
};

enum HeaderWord : uint32_t {
  kHeaderExponent = 0,  // int: what the stages before this vector add to the exponent
  kHeaderColumns = 1,   // 0: rho is the next word; else of the norm, see kHeaderRho
  kHeaderRho = 2,       // float: rho; or eps, and rho = 1 / sqrt(sum(squares) / columns + eps)
};

/// Bits of the status word, which a command buffer's kernels set and the host reads after it.
enum StatusBit : uint32_t {
  kStatusNonFinite = 1,  // an activation is a NaN or an infinity
  kStatusScale = 2,      // the scale of a linear's output is not a normal number
  kStatusLogit = 4,      // a logit is a NaN or an infinity
};

inline uint32_t chunks_of_columns(uint32_t columns) { return (columns + 31) / 32; }
inline uint32_t pad4(uint32_t words) { return (words + 3) / 4 * 4; }

inline uint32_t qvec_codes_at() { return kQvecHeaderWords; }
inline uint32_t qvec_planes_at(uint32_t chunks) { return kQvecHeaderWords + 8 * chunks; }
inline uint32_t qvec_meta_at(uint32_t chunks) { return kQvecHeaderWords + 16 * chunks; }
inline uint32_t qvec_squares_at(uint32_t chunks) { return qvec_meta_at(chunks) + pad4(chunks); }
inline uint32_t qvec_words(uint32_t chunks) { return qvec_squares_at(chunks) + pad4(chunks); }

}  // namespace shader
}  // namespace subbit
