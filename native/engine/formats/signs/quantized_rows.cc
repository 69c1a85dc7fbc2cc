// The activation quantizer.
#include "formats/signs/quantized_rows.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>

#include "base/error.h"
#include "formats/signs/layout.h"

namespace subbit {
namespace {

constexpr uint32_t kInfinityBits = 0x7F800000u;
constexpr uint32_t kTinyBits = (127u - 100u) << 23;  // 2^-100; also ends every denormal question

/// Largest magnitude of a chunk, as the bits of a float: unsigned integers compare alike on every
/// machine, and a NaN is the largest of all.
uint32_t largest_bits(const float* v, int64_t count) {
  uint32_t largest = 0;
  for (int64_t j = 0; j < count; ++j) {
    largest = std::max(largest, std::bit_cast<uint32_t>(v[j]) & 0x7FFFFFFFu);
  }
  return largest;
}

/// Rounds to the nearest integer, ties to even, for |v| < 2^22: adding 1.5 * 2^23 leaves the
/// integer in the low bits of the sum. Unlike rint() it needs no instruction a baseline x86-64
/// lacks, so the loop over a chunk vectorizes everywhere.
int32_t round_to_even(float v) {
  return static_cast<int32_t>(std::bit_cast<uint32_t>(v + 0x1.8p23f) - 0x4B400000u);
}

int8_t quantize_chunk(const float* v, int64_t count, int8_t* codes) {
  const uint32_t largest = largest_bits(v, count);
  if (largest >= kInfinityBits) {
    throw Error(ErrorCode::kNonFinite, "an activation is not a finite number");
  }
  std::fill_n(codes, kChunk, int8_t{0});
  if (largest < kTinyBits) return kZeroChunkExponent;
  // 127 * 2^e = (2 - 2^-6) * 2^(e+6): the mantissa carries into the exponent past 0x7E0000.
  const int exponent = static_cast<int>((largest + 0x1FFFFu) >> 23) - 133;
  const float scale = std::ldexp(1.0f, -exponent);  // -exponent is in [-122, 106]: never subnormal
  for (int64_t j = 0; j < count; ++j) codes[j] = static_cast<int8_t>(round_to_even(v[j] * scale));
  return static_cast<int8_t>(exponent);
}

}  // namespace

void quantize_rows(ConstMatrix values, QuantizedRows& out, ThreadPool& pool) {
  out.rows = values.rows;
  out.cols = values.cols;
  out.chunks = chunks_of(values.cols);
  if (out.codes.size() < out.rows * out.chunks * kChunk) {
    out.codes = Buffer<int8_t>(out.rows * out.chunks * kChunk);
  }
  if (out.exponents.size() < out.rows * out.chunks) {
    out.exponents = Buffer<int8_t>(out.rows * out.chunks);
  }
  const auto quantize_row = [&](int64_t row) {
    for (int64_t chunk = 0; chunk < out.chunks; ++chunk) {
      const int64_t first = chunk * kChunk;
      out.exponents[row * out.chunks + chunk] =
          quantize_chunk(values.row(row) + first, std::min(kChunk, out.cols - first),
                         out.codes.data() + (row * out.chunks + chunk) * kChunk);
    }
  };
  if (out.rows == 1) {  // decode: waking the pool costs more than the row
    quantize_row(0);
    return;
  }
  pool.parallel_for(out.rows, 4, [&](Range range) {
    for (int64_t row = range.begin; row < range.end; ++row) quantize_row(row);
  });
}

}  // namespace subbit
