// From per-chunk exponents to one exponent per vector.
#include "formats/signs/loaded_codes.h"

#include <algorithm>
#include <bit>
#include <cstdlib>

#include "base/check.h"
#include "base/wide_loop.h"
#include "formats/signs/layout.h"

namespace subbit {
namespace {

/// m_j of a chunk into `out`, with the codes' signs; returns their sum.
inline int32_t load_chunk(const int8_t* codes, int drop, int8_t* out) {
  int32_t sum = 0;
  if (drop == 0) {  // nearly always
    for (int64_t j = 0; j < kChunk; ++j) {
      out[j] = codes[j];
      sum += std::abs(codes[j]);
    }
    return sum;
  }
  for (int64_t j = 0; j < kChunk; ++j) {
    const int magnitude = std::abs(codes[j]) >> drop;
    sum += magnitude;
    out[j] = static_cast<int8_t>(codes[j] < 0 ? -magnitude : magnitude);
  }
  return sum;
}

/// e* of the header; kZeroChunkExponent for a vector of zeros.
inline int largest_exponent(const QuantizedRows& in, int64_t row) {
  const int8_t* exponents = in.exponents.data() + row * in.chunks;
  int largest = kZeroChunkExponent;
  for (int64_t chunk = 0; chunk < in.chunks; ++chunk)
    largest = std::max(largest, static_cast<int>(exponents[chunk]));
  return largest;
}

inline void load_row(const QuantizedRows& in, int64_t row, LoadedCodes& out, int64_t to) {
  const int8_t* exponents = in.exponents.data() + row * in.chunks;
  const int headroom = out.headroom;
  const int largest = largest_exponent(in, row);
  const bool zero = largest == kZeroChunkExponent;
  out.exponents[to] = zero ? 0 : largest - headroom;
  const int8_t* codes = in.codes.data() + row * in.chunks * kChunk;
  int8_t* loaded = out.codes.data() + to * in.chunks * kChunk;
  uint8_t* shifts = out.shifts.data() + to * in.chunks;
  int32_t* magnitudes = out.magnitudes.data() + to * in.chunks;
  for (int64_t chunk = 0; chunk < in.chunks; ++chunk) {
    const int below = largest - exponents[chunk];
    const int drop = std::clamp(below - headroom, 0, 7);
    const int shift = std::max(0, headroom - below);
    const int32_t sum = load_chunk(codes + chunk * kChunk, drop, loaded + chunk * kChunk);
    shifts[chunk] = static_cast<uint8_t>(shift);
    magnitudes[chunk] = sum << shift;
  }
}

}  // namespace

int headroom_bits(int64_t reach) {
  CHECK(reach >= 1 && reach < (int64_t{1} << 23));
  const int log2_up = std::bit_width(static_cast<uint64_t>(reach - 1));
  return std::min(12, 23 - log2_up);
}

uint64_t loaded_codes_bytes(int64_t rows, int64_t columns) {
  const auto chunks = static_cast<uint64_t>(chunks_of(columns));
  const uint64_t chunk = kChunk + sizeof(uint8_t) + sizeof(int32_t);
  return static_cast<uint64_t>(rows) * (chunks * chunk + sizeof(int32_t));
}

void size_loaded_codes(const QuantizedRows& rows, int64_t reach, LoadedCodes& out) {
  out.rows = rows.rows;
  out.chunks = rows.chunks;
  out.headroom = headroom_bits(reach);
  reserve(out.codes, rows.rows * rows.chunks * kChunk);
  reserve(out.shifts, rows.rows * rows.chunks);
  reserve(out.magnitudes, rows.rows * rows.chunks);
  reserve(out.exponents, rows.rows);
}

int32_t common_exponent(const QuantizedRows& rows, int64_t row, int headroom) {
  const int largest = largest_exponent(rows, row);
  return largest == kZeroChunkExponent ? 0 : largest - headroom;
}

void load_codes_row(const QuantizedRows& rows, int64_t from, LoadedCodes& out, int64_t to) {
  run_wide([&] { load_row(rows, from, out, to); });
}

void load_codes(const QuantizedRows& rows, int64_t reach, LoadedCodes& out, ThreadPool& pool) {
  size_loaded_codes(rows, reach, out);
  wide_parallel_for(pool, rows.rows, 4, [&](Range range) {
    for (int64_t row = range.begin; row < range.end; ++row) load_row(rows, row, out, row);
  });
}

}  // namespace subbit
