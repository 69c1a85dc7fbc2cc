// The activation quantizer and the loading of codes, against the contract written out literally.
#include <cmath>
#include <cstdlib>
#include <limits>
#include <vector>

#include "base/rng.h"
#include "formats/signs/layout.h"
#include "formats/signs/loaded_codes.h"
#include "formats/signs/quantized_rows.h"
#include "support/test.h"

namespace subbit {
namespace {

QuantizedRows quantize(const std::vector<float>& values) {
  ThreadPool pool(1);
  QuantizedRows out;
  quantize_rows(ConstMatrix(values.data(), 1, static_cast<int64_t>(values.size())), out, pool);
  return out;
}

TEST(a_chunk_gets_the_least_exponent_that_holds_its_largest_value) {
  for (int e = -90; e <= 100; e += 19) {
    const float limit = std::ldexp(127.0f, e);
    EXPECT_EQ(int(quantize({limit, -limit}).exponents[0]), e);
    EXPECT_EQ(int(quantize({std::nextafter(limit, 3e38f)}).exponents[0]), e + 1);
    EXPECT_EQ(int(quantize({limit}).codes[0]), 127);
    EXPECT_EQ(int(quantize({-limit}).codes[0]), -127);
  }
}

TEST(codes_round_to_nearest_with_ties_to_even) {
  const QuantizedRows rows = quantize({127.0f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 0.50001f, -126.5f});
  const int expected[] = {127, 0, 2, 2, 0, -2, 1, -126};
  for (int j = 0; j < 8; ++j) EXPECT_EQ(int(rows.codes[j]), expected[j]);
}

TEST(tiny_chunks_are_zero_and_say_so) {
  const QuantizedRows rows = quantize({std::nextafter(0x1p-100f, 0.0f), 1e-44f});
  EXPECT_EQ(int(rows.exponents[0]), kZeroChunkExponent);
  EXPECT_EQ(int(rows.codes[0]), 0);
  EXPECT(quantize({0x1p-100f}).exponents[0] != kZeroChunkExponent);
}

TEST(a_value_that_is_no_number_is_an_error_not_a_zero) {
  const float bad[] = {std::numeric_limits<float>::quiet_NaN(),
                       std::numeric_limits<float>::infinity(),
                       -std::numeric_limits<float>::infinity()};
  for (const float value : bad) {
    EXPECT_ERROR(ErrorCode::kNonFinite, "finite", quantize({1.0f, value}));
  }
}

TEST(rounded_values_are_what_their_codes_stand_for) {
  ThreadPool pool(2);
  for (const int64_t cols : {1, 31, 32, 33, 100}) {
    for (const float size : {1e-31f, 1e-20f, 1.0f, 3e7f, 3e38f}) {
      constexpr int64_t kRows = 9;
      Rng rng(static_cast<uint64_t>(cols));
      std::vector<float> values(kRows * cols);
      for (float& v : values) v = size * static_cast<float>(2.0 * rng.uniform() - 1.0);
      std::vector<BFloat16> rounded(values.size());
      const ConstMatrix in(values.data(), kRows, cols);
      round_to_codes(in, {rounded.data(), kRows, cols}, pool);
      QuantizedRows rows;
      quantize_rows(in, rows, pool);
      for (int64_t t = 0; t < kRows; ++t) {
        for (int64_t j = 0; j < cols; ++j) {
          const int exponent = rows.exponents[t * rows.chunks + j / kChunk];
          const int code = rows.codes[t * rows.chunks * kChunk + j];
          EXPECT_EQ(to_float(rounded[static_cast<size_t>(t * cols + j)]),
                    code == 0 ? 0.0f : std::ldexp(static_cast<float>(code), exponent));
        }
      }
    }
  }
  std::vector<float> bad = {1.0f, std::numeric_limits<float>::infinity()};
  std::vector<BFloat16> out(2);
  EXPECT_ERROR(ErrorCode::kNonFinite, "finite",
               round_to_codes(ConstMatrix(bad.data(), 1, 2), {out.data(), 1, 2}, pool));
}

TEST(columns_past_the_end_of_a_chunk_are_zero) {
  const std::vector<float> values(33, 3.0f);
  const QuantizedRows rows = quantize(values);
  EXPECT_EQ(rows.chunks, 2);
  for (int64_t j = 33; j < 64; ++j) EXPECT_EQ(int(rows.codes[j]), 0);
}

TEST(the_headroom_keeps_sums_inside_their_bound) {
  EXPECT_EQ(headroom_bits(1), 12);
  EXPECT_EQ(headroom_bits(288), 12);
  EXPECT_EQ(headroom_bits(2048), 12);
  EXPECT_EQ(headroom_bits(2049), 11);
  EXPECT_EQ(headroom_bits(4096), 11);
  EXPECT_EQ(headroom_bits(11008), 9);
}

/// Loads a row whose first chunk outweighs the second by 2^below.
LoadedCodes load_with_gap(int below) {
  std::vector<float> values(64, 127.0f);
  for (size_t j = 32; j < 64; ++j) values[j] = std::ldexp(127.0f, -below);
  ThreadPool pool(1);
  LoadedCodes loaded;
  load_codes(quantize(values), 64, loaded, pool);
  return loaded;
}

TEST(chunks_far_below_the_largest_lose_low_bits_only) {
  for (int below = 0; below <= 25; ++below) {
    const LoadedCodes loaded = load_with_gap(below);
    const int drop = std::min(7, std::max(0, below - 12));
    EXPECT_EQ(int(loaded.codes[32]), 127 >> drop);
    EXPECT_EQ(int(loaded.shifts[1]), std::max(0, 12 - below));
    EXPECT_EQ(int(loaded.shifts[0]), 12);
    EXPECT_EQ(loaded.exponents[0], -12);
    EXPECT_EQ(loaded.magnitudes[1], (32 * (127 >> drop)) << std::max(0, 12 - below));
  }
}

TEST(loaded_codes_give_back_the_values_to_half_a_step) {
  Rng rng(7);
  std::vector<float> values(172);
  for (float& v : values) v = rng.normal();
  const QuantizedRows rows = quantize(values);
  ThreadPool pool(1);
  LoadedCodes loaded;
  load_codes(rows, 172, loaded, pool);
  for (int64_t j = 0; j < 172; ++j) {
    const int64_t chunk = j / kChunk;
    const double step = std::ldexp(1.0, rows.exponents[chunk]);
    const double value =
        std::ldexp(double(loaded.codes[j]) * (1 << loaded.shifts[chunk]), loaded.exponents[0]);
    EXPECT_NEAR(value, values[static_cast<size_t>(j)], step / 2);
  }
}

TEST(a_vector_of_zeros_is_harmless) {
  ThreadPool pool(1);
  LoadedCodes loaded;
  load_codes(quantize(std::vector<float>(40, 0.0f)), 40, loaded, pool);
  EXPECT_EQ(loaded.exponents[0], 0);
  EXPECT_EQ(loaded.magnitudes[0], 0);
}

}  // namespace
}  // namespace subbit
