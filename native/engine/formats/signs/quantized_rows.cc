// The activation quantizer.
#include "formats/signs/quantized_rows.h"

#include <algorithm>
#include <bit>
#include <string>

#include "base/check.h"
#include "base/error.h"
#include "base/wide_loop.h"
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

/// Adding 1.5 * 2^23 to |v| < 2^22 rounds it to the nearest integer, ties to even, and leaves that
/// in the low bits of the sum. Unlike rint() it needs no instruction a baseline x86-64 lacks, so
/// the loops over a chunk vectorize everywhere.
constexpr float kRounder = 0x1.8p23f;

int32_t round_to_even(float v) {
  return static_cast<int32_t>(std::bit_cast<uint32_t>(v + kRounder) -
                              std::bit_cast<uint32_t>(kRounder));
}

/// Apart, so that wide loops do not inline what throwing takes.
[[noreturn]] __attribute__((noinline, cold)) void refuse_non_finite() {
  throw Error(ErrorCode::kNonFinite, "an activation is not a finite number");
}

/// e_c of the header.
int chunk_exponent(const float* v, int64_t count) {
  const uint32_t largest = largest_bits(v, count);
  if (largest >= kInfinityBits) refuse_non_finite();
  if (largest < kTinyBits) return kZeroChunkExponent;
  // 127 * 2^e = (2 - 2^-6) * 2^(e+6): the mantissa carries into the exponent past 0x7E0000.
  return static_cast<int>((largest + 0x1FFFFu) >> 23) - 133;
}

/// 2^exponent; those of chunks lie in [-106, 122], so that neither they nor their reciprocals are
/// subnormal.
float power_of_two(int exponent) {
  return std::bit_cast<float>(static_cast<uint32_t>(exponent + 127) << 23);
}

int8_t quantize_chunk(const float* v, int64_t count, int8_t* codes) {
  const int exponent = chunk_exponent(v, count);
  std::fill_n(codes, kChunk, int8_t{0});
  if (exponent == kZeroChunkExponent) return kZeroChunkExponent;
  const float scale = power_of_two(-exponent);
  for (int64_t j = 0; j < count; ++j) codes[j] = static_cast<int8_t>(round_to_even(v[j] * scale));
  return static_cast<int8_t>(exponent);
}

inline void quantize_row(ConstMatrix values, int64_t row, Range columns, QuantizedRows& out) {
  const float* v = values.row(row);
  int8_t* codes = out.codes.data() + row * out.chunks * kChunk;
  int8_t* exponents = out.exponents.data() + row * out.chunks;
  int64_t first = columns.begin;
  for (; first + kChunk <= columns.end; first += kChunk)
    exponents[first / kChunk] = quantize_chunk(v + first, kChunk, codes + first);
  if (first < columns.end)
    exponents[first / kChunk] = quantize_chunk(v + first, columns.end - first, codes + first);
}

void round_chunk(const float* v, int64_t count, BFloat16* out) {
  const int exponent = chunk_exponent(v, count);
  if (exponent == kZeroChunkExponent) {
    std::fill_n(out, count, BFloat16{});
    return;
  }
  const float scale = power_of_two(-exponent);
  const float unit = power_of_two(exponent);
  for (int64_t j = 0; j < count; ++j) {
    const float code = (v[j] * scale + kRounder) - kRounder;
    out[j].bits = static_cast<uint16_t>(std::bit_cast<uint32_t>(code * unit) >> 16);
  }
}

}  // namespace

uint64_t quantized_rows_bytes(int64_t rows, int64_t columns) {
  return static_cast<uint64_t>(rows * chunks_of(columns)) * (kChunk + sizeof(int8_t));
}

void size_quantized_rows(int64_t rows, int64_t cols, QuantizedRows& out) {
  out.rows = rows;
  out.cols = cols;
  out.chunks = chunks_of(cols);
  reserve(out.codes, rows * out.chunks * kChunk);
  reserve(out.exponents, rows * out.chunks);
}

void quantize_columns(ConstMatrix values, Range columns, QuantizedRows& out) {
  CHECK(values.rows == out.rows && values.cols == out.cols);
  CHECK(columns.begin % kChunk == 0 && (columns.end % kChunk == 0 || columns.end == out.cols));
  run_wide([&] {
    for (int64_t row = 0; row < out.rows; ++row) quantize_row(values, row, columns, out);
  });
}

void quantize_rows(ConstMatrix values, QuantizedRows& out, ThreadPool& pool) {
  size_quantized_rows(values.rows, values.cols, out);
  // One row, as in decoding, takes less than waking the pool does.
  wide_parallel_for(pool, out.rows, 4, [&](Range range) {
    for (int64_t row = range.begin; row < range.end; ++row)
      quantize_row(values, row, {0, out.cols}, out);
  });
}

void round_to_codes(ConstMatrix values, MatrixView<BFloat16> out, ThreadPool& pool) {
  CHECK(values.shape() == out.shape());
  wide_parallel_for(pool, values.rows, 4, [&](Range range) {
    for (int64_t t = range.begin; t < range.end; ++t) {
      int64_t first = 0;
      for (; first + kChunk <= values.cols; first += kChunk)
        round_chunk(values.row(t) + first, kChunk, out.row(t) + first);
      if (first < values.cols)
        round_chunk(values.row(t) + first, values.cols - first, out.row(t) + first);
    }
  });
}

}  // namespace subbit
