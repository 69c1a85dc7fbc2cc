// From per-chunk exponents to one exponent per vector.
#include "formats/signs/loaded_codes.h"

#include <algorithm>
#include <bit>
#include <cstdlib>

#include "base/check.h"
#include "formats/signs/layout.h"

namespace subbit {
namespace {

template <typename T>
void reserve(Buffer<T>& buffer, int64_t count) {
  if (buffer.size() < count) buffer = Buffer<T>(count);
}

void load_row(const QuantizedRows& in, int64_t row, int headroom, LoadedCodes& out) {
  const int8_t* exponents = in.exponents.data() + row * in.chunks;
  const int largest = *std::max_element(exponents, exponents + in.chunks);
  const bool zero = largest == kZeroChunkExponent;
  out.exponents[row] = zero ? 0 : largest - headroom;
  for (int64_t chunk = 0; chunk < in.chunks; ++chunk) {
    const int below = largest - exponents[chunk];
    const int drop = std::clamp(below - headroom, 0, 7);
    const int shift = std::max(0, headroom - below);
    const int64_t first = (row * in.chunks + chunk) * kChunk;
    int32_t sum = 0;
    for (int64_t j = first; j < first + kChunk; ++j) {
      const int code = in.codes[j];
      const int magnitude = std::abs(code) >> drop;
      sum += magnitude;
      out.codes[j] = static_cast<int8_t>(code < 0 ? -magnitude : magnitude);
    }
    out.shifts[row * in.chunks + chunk] = static_cast<uint8_t>(shift);
    out.magnitudes[row * in.chunks + chunk] = sum << shift;
  }
}

}  // namespace

int headroom_bits(int64_t reach) {
  CHECK(reach >= 1 && reach < (int64_t{1} << 23));
  const int log2_up = std::bit_width(static_cast<uint64_t>(reach - 1));
  return std::min(12, 23 - log2_up);
}

void load_codes(const QuantizedRows& rows, int64_t reach, LoadedCodes& out) {
  out.rows = rows.rows;
  out.chunks = rows.chunks;
  reserve(out.codes, rows.rows * rows.chunks * kChunk);
  reserve(out.shifts, rows.rows * rows.chunks);
  reserve(out.magnitudes, rows.rows * rows.chunks);
  reserve(out.exponents, rows.rows);
  out.headroom = headroom_bits(reach);
  for (int64_t row = 0; row < rows.rows; ++row) load_row(rows, row, out.headroom, out);
}

}  // namespace subbit
