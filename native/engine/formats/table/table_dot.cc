// Writing out rows of a table term and multiplying them. Precomputing the 256 dot products of each
// run of codes instead would take as many instructions for d = 4 and two thirds for d = 8, and
// needs a kilobyte a run: the tables would leave the first-level cache on any matrix of size.
#include "formats/table/table_dot.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/buffer.h"
#include "base/processor.h"
#include "formats/signs/index_matrix.h"
#include "formats/signs/layout.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace subbit {
namespace {

constexpr int64_t kBlockChunks = 64;  // of columns written out at once: 4 rows of 2 KiB

void dot_portable(const int8_t* weights, const int8_t* codes, const int16_t* scales, int64_t chunks,
                  int64_t* out) {
  for (int64_t r = 0; r < kQuad; ++r) {
    const int8_t* w = weights + r * chunks * kChunk;
    int64_t sum = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      int32_t dot = 0;
      for (int64_t j = chunk * kChunk; j < (chunk + 1) * kChunk; ++j) dot += w[j] * codes[j];
      sum += int64_t{dot} * scales[chunk];
    }
    out[r] += sum;
  }
}

#if defined(__x86_64__)

#define SUBBIT_AVX2 __attribute__((target("avx2")))

SUBBIT_AVX2 inline int64_t sum_lanes(__m256i v) {
  const __m128i half = _mm_add_epi64(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  return _mm_extract_epi64(half, 0) + _mm_extract_epi64(half, 1);
}

SUBBIT_AVX2 inline __m256i widen_and_add(__m256i wide, __m256i v) {
  wide = _mm256_add_epi64(wide, _mm256_cvtepi32_epi64(_mm256_castsi256_si128(v)));
  return _mm256_add_epi64(wide, _mm256_cvtepi32_epi64(_mm256_extracti128_si256(v, 1)));
}

/// A 16-bit pair holds at most 2 * 127^2 < 2^15; times 2^12, a 32-bit lane less than 2^28 a chunk:
/// four chunks fit before the lanes must be widened.
SUBBIT_AVX2 void dot_avx2(const int8_t* weights, const int8_t* codes, const int16_t* scales,
                          int64_t chunks, int64_t* out) {
  constexpr int64_t kNarrowChunks = 4;
  __m256i wide[kQuad];
  for (int64_t r = 0; r < kQuad; ++r) wide[r] = _mm256_setzero_si256();
  for (int64_t first = 0; first < chunks; first += kNarrowChunks) {
    __m256i narrow[kQuad];
    for (int64_t r = 0; r < kQuad; ++r) narrow[r] = _mm256_setzero_si256();
    for (int64_t c = first; c < std::min(first + kNarrowChunks, chunks); ++c) {
      const __m256i code = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + c * kChunk));
      const __m256i magnitude = _mm256_abs_epi8(code);
      const __m256i scale = _mm256_set1_epi16(scales[c]);
      for (int64_t r = 0; r < kQuad; ++r) {
        const __m256i w = _mm256_loadu_si256(
            reinterpret_cast<const __m256i*>(weights + (r * chunks + c) * kChunk));
        const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(w, code));
        narrow[r] = _mm256_add_epi32(narrow[r], _mm256_madd_epi16(pairs, scale));
      }
    }
    for (int64_t r = 0; r < kQuad; ++r) wide[r] = widen_and_add(wide[r], narrow[r]);
  }
  for (int64_t r = 0; r < kQuad; ++r) out[r] += sum_lanes(wide[r]);
}

const TableKernel kAvx2 = {"avx2", dot_avx2};

#endif

const TableKernel kPortable = {"portable", dot_portable};

/// Writes the vectors that the index bytes of 4 rows name, from vector `vectors.begin`, a multiple
/// of 4, on, to out [4, row_stride]. `unit` is the quad's first unit.
template <int64_t kWidth>
void write_out(const TableTask& task, const uint8_t* unit, Range vectors, int8_t* out,
               int64_t row_stride) {
  const int8_t* const table =
      task.table;  // bytes written below could be the task's, for all gcc knows
  const int64_t whole = vectors.begin + (vectors.end - vectors.begin) / kWordIndices * kWordIndices;
  for (int64_t r = 0; r < kQuad; ++r) {
    int8_t* to = out + r * row_stride;
    const uint8_t* from = unit + vectors.begin / kWordIndices * kUnitBytes + 4 * r;
    for (int64_t v = vectors.begin; v < whole; v += kWordIndices, from += kUnitBytes) {
      uint32_t word;
      std::memcpy(&word, from, sizeof(word));
      std::memcpy(to, table + (word & 0xFF) * kWidth, kWidth);
      std::memcpy(to + kWidth, table + (word >> 8 & 0xFF) * kWidth, kWidth);
      std::memcpy(to + 2 * kWidth, table + (word >> 16 & 0xFF) * kWidth, kWidth);
      std::memcpy(to + 3 * kWidth, table + (word >> 24) * kWidth, kWidth);
      to += kWordIndices * kWidth;
    }
    for (int64_t v = whole; v < vectors.end; ++v, ++from, to += kWidth) {
      std::memcpy(to, table + *from * kWidth, kWidth);
    }
  }
}

void write_out(const TableTask& task, const uint8_t* unit, Range vectors, int8_t* out,
               int64_t row_stride) {
  if (task.width == 4) return write_out<4>(task, unit, vectors, out, row_stride);
  if (task.width == 8) return write_out<8>(task, unit, vectors, out, row_stride);
  write_out<16>(task, unit, vectors, out, row_stride);
}

/// What one thread needs while it multiplies quads.
struct Scratch {
  Buffer<int8_t> weights{kQuad * kBlockChunks * kChunk};
  std::vector<int64_t> sums;  // [tokens, 4]
};

void multiply_quad(const TableKernel& kernel, const TableTask& task, const int16_t* scales,
                   int64_t quad, Scratch& scratch, MatrixView<int32_t> out) {
  const int64_t words = (task.vectors + kWordIndices - 1) / kWordIndices;
  const uint8_t* unit = task.indices + quad * words * kUnitBytes;
  const int64_t chunks = chunks_of(task.vectors * task.width);
  std::fill(scratch.sums.begin(), scratch.sums.end(), 0);
  for (int64_t first = 0; first < chunks; first += kBlockChunks) {
    const int64_t count = std::min(kBlockChunks, chunks - first);
    const int64_t begin = first * kChunk / task.width;
    const int64_t end = std::min(task.vectors, (first + count) * kChunk / task.width);
    if (end * task.width < (first + count) * kChunk) {
      std::memset(scratch.weights.data(), 0, static_cast<size_t>(kQuad * count * kChunk));
    }
    write_out(task, unit, {begin, end}, scratch.weights.data(), count * kChunk);
    for (int64_t t = 0; t < out.rows; ++t) {
      kernel.dot(scratch.weights.data(), task.codes + (t * task.code_chunks + first) * kChunk,
                 scales + t * chunks + first, count, &scratch.sums[static_cast<size_t>(t * kQuad)]);
    }
  }
  const int64_t half = task.rounding_shift == 0 ? 0 : int64_t{1} << (task.rounding_shift - 1);
  for (int64_t t = 0; t < out.rows; ++t) {
    for (int64_t r = 0; r < std::min(kQuad, task.rows - quad * kQuad); ++r) {
      const int64_t sum = scratch.sums[static_cast<size_t>(t * kQuad + r)];
      out.at(t, quad * kQuad + r) = static_cast<int32_t>((sum + half) >> task.rounding_shift);
    }
  }
}

}  // namespace

std::span<const TableKernel* const> table_kernels() {
#if defined(__x86_64__)
  static const TableKernel* const kernels[] = {&kAvx2, &kPortable};
  const bool avx2 = has_avx2();
  return std::span(kernels).subspan(avx2 ? 0 : 1);
#else
  static const TableKernel* const kernels[] = {&kPortable};
  return kernels;
#endif
}

void table_dot(const TableKernel& kernel, const TableTask& task, MatrixView<int32_t> out,
               ThreadPool& pool, FunctionRef<void(Range)> done) {
  const int64_t chunks = chunks_of(task.vectors * task.width);
  std::vector<int16_t> scales(static_cast<size_t>(out.rows * chunks));
  for (int64_t t = 0; t < out.rows; ++t) {
    for (int64_t c = 0; c < chunks; ++c) {
      scales[static_cast<size_t>(t * chunks + c)] =
          static_cast<int16_t>(1 << task.shifts[t * task.code_chunks + c]);
    }
  }
  // About 64 KiB of weights a claim.
  const int64_t claim = std::max<int64_t>(1, 65536 / (kQuad * chunks * kChunk));
  pool.parallel_for(quads_of(task.rows), claim, [&](Range range) {
    Scratch scratch;
    scratch.sums.resize(static_cast<size_t>(out.rows * kQuad));
    for (int64_t quad = range.begin; quad < range.end; ++quad) {
      multiply_quad(kernel, task, scales.data(), quad, scratch, out);
    }
    if (done) done({range.begin * kQuad, std::min(range.end * kQuad, task.rows), range.worker});
  });
}

}  // namespace subbit
