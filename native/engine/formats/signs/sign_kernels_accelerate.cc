// The sign kernel for prompts on the matrix units of Macs, which are reached through Accelerate
// alone. cblas_sgemm multiplies floats, and still every sum is exact: codes are split in two parts,
// v = 128 * high + low, so that the magnitudes of each part's products add up to no more than 2^24,
// up to where a float holds every integer, in whatever order they are summed:
//
//   low:  |low| <= 2^6, up to 2^18 columns
//   high: |high| <= 2^D + 1/2 with D + log2(columns) <= 23 (headroom_bits)
//
// SUBBIT_CBLAS: any CBLAS in Accelerate's place, for the tests.
#include "formats/signs/sign_kernel.h"

#if defined(__APPLE__) || defined(SUBBIT_CBLAS)

#include <algorithm>

#include "base/buffer.h"
#include "base/cblas.h"
#include "base/check.h"
#include "formats/signs/byte_codes.h"
#include "formats/signs/layout.h"

namespace subbit {
namespace {

constexpr int64_t kMostColumns = int64_t{1} << 18;
constexpr int64_t kBlockTokens = 128;
constexpr int64_t kTileFloats = 1 << 18;  // of signs written out at a time: 1 MB

/// v of a chunk into its two parts.
inline void split(const int8_t* codes, int32_t scale, float* high, float* low) {
  for (int64_t j = 0; j < kChunk; ++j) {
    const int32_t v = codes[j] * scale;
    const int32_t h = (v + 64) >> 7;
    high[j] = static_cast<float>(h);
    low[j] = static_cast<float>(v - 128 * h);
  }
}

/// Rows [first, first + rows) of signs as floats, [rows, chunks * 32].
void write_out(const SignTask& task, int64_t first, int64_t rows, float* to) {
  const auto* words = reinterpret_cast<const uint32_t*>(task.words);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t c = 0; c < task.chunks; ++c) {
      const uint32_t word = words[sign_word_index(first + i, c, task.chunks)];
      for (int64_t j = 0; j < kChunk; ++j) *to++ = (word >> j & 1) != 0 ? 1.0f : -1.0f;
    }
  }
}

/// c [tokens, rows] = a [tokens, columns] times the transpose of b [rows, columns].
void multiply_floats(ConstMatrix a, ConstMatrix b, float* c) {
  cblas_sgemm(kCblasRowMajor, kCblasNoTrans, kCblasTrans, static_cast<int>(a.rows),
              static_cast<int>(b.rows), static_cast<int>(a.cols), 1.0f, a.data,
              static_cast<int>(a.cols), b.data, static_cast<int>(b.cols), 0.0f, c,
              static_cast<int>(b.rows));
}

void multiply_block(const SignTask& task, int64_t first_token, int64_t tokens,
                    MatrixView<int32_t> out) {
  const int64_t columns = task.chunks * kChunk;
  const int64_t most_rows = std::max<int64_t>(kQuad, kTileFloats / columns / kQuad * kQuad);
  Buffer<float> parts(2 * tokens * columns);
  Buffer<float> signs(most_rows * columns);
  Buffer<float> sums(2 * tokens * most_rows);
  float* const high = parts.data();
  float* const low = high + tokens * columns;
  for (int64_t t = 0; t < tokens; ++t) {
    const ByteCodes of = byte_codes_of(task, first_token + t);
    for (int64_t c = 0; c < task.chunks; ++c) {
      const int64_t at = t * columns + c * kChunk;
      split(of.codes + c * kChunk, of.scales[4 * c], high + at, low + at);
    }
  }
  const int64_t end = std::min(task.last_quad * kQuad, task.rows);
  for (int64_t first = task.first_quad * kQuad; first < end; first += most_rows) {
    const int64_t rows = std::min(most_rows, end - first);
    write_out(task, first, rows, signs.data());
    const ConstMatrix weights(signs.data(), rows, columns);
    multiply_floats({high, tokens, columns}, weights, sums.data());
    multiply_floats({low, tokens, columns}, weights, sums.data() + tokens * rows);
    for (int64_t t = 0; t < tokens; ++t) {
      const float* from = sums.data() + t * rows;
      int32_t* to = out.row(first_token + t) + first;
      for (int64_t i = 0; i < rows; ++i)
        to[i] = 128 * static_cast<int32_t>(from[i]) + static_cast<int32_t>(from[tokens * rows + i]);
    }
  }
}

void multiply(const SignTask& task, MatrixView<int32_t> out) {
  CHECK(task.chunks * kChunk <= kMostColumns);
  for (int64_t first = 0; first < out.rows; first += kBlockTokens)
    multiply_block(task, first, std::min(kBlockTokens, out.rows - first), out);
}

}  // namespace

const SignKernel kAccelerateSignKernel = {
    "accelerate", [] { return true; },      kByteCodesChunkBytes, load_byte_codes,
    multiply,     SignKernel::For::kPrompts};

}  // namespace subbit

#endif  // __APPLE__ || SUBBIT_CBLAS
