// The sign kernel in plain C++: codes as bit planes, so that one XOR and seven AND-popcounts
// multiply 32 columns. It also stands in where no faster kernel is usable.
//
// Operand of a chunk: 8 words, the sign plane (1 where the code is positive), then magnitude planes
// 0..6, and one word of shift. 36 bytes.
#include <algorithm>
#include <bit>
#include <cstring>

#include "formats/signs/layout.h"
#include "formats/signs/sign_kernel.h"

namespace subbit {
namespace {

constexpr int kPlanes = 7;

struct ChunkPlanes {
  uint32_t sign;
  uint32_t planes[kPlanes];
  uint32_t shift;
};
constexpr int64_t kPlanesBytes = sizeof(ChunkPlanes);
static_assert(kPlanesBytes == 36);

ChunkPlanes planes_of(const int8_t* codes, uint8_t shift) {
  ChunkPlanes chunk{};
  for (int64_t j = 0; j < kChunk; ++j) {
    const int code = codes[j];
    const uint32_t magnitude = static_cast<uint32_t>(code < 0 ? -code : code);
    chunk.sign |= static_cast<uint32_t>(code > 0) << j;
    for (int p = 0; p < kPlanes; ++p) chunk.planes[p] |= ((magnitude >> p) & 1u) << j;
  }
  chunk.shift = shift;
  return chunk;
}

void load(const LoadedCodes& codes, int64_t row, uint8_t* operand) {
  for (int64_t chunk = 0; chunk < codes.chunks; ++chunk) {
    const int64_t at = row * codes.chunks + chunk;
    const ChunkPlanes planes = planes_of(codes.codes.data() + at * kChunk, codes.shifts[at]);
    std::memcpy(operand + chunk * kPlanesBytes, &planes, sizeof(planes));
  }
}

/// Sum of the magnitudes whose sign agrees with the weight word's bit.
int32_t agreement(uint32_t word, const ChunkPlanes& chunk) {
  const uint32_t agree = ~(word ^ chunk.sign);
  int32_t sum = 0;
  for (int p = 0; p < kPlanes; ++p) sum += std::popcount(agree & chunk.planes[p]) << p;
  return sum << chunk.shift;
}

void multiply(const SignTask& task, MatrixView<int32_t> out) {
  for (int64_t quad = task.first_quad; quad < task.last_quad; ++quad) {
    const std::byte* units = task.words + quad * task.chunks * kUnitBytes;
    for (int64_t token = 0; token < out.rows; ++token) {
      const uint8_t* operand =
          task.operand + (token * task.operand_chunks + task.first_chunk) * kPlanesBytes;
      int32_t sums[kQuad] = {};
      for (int64_t chunk = 0; chunk < task.chunks; ++chunk) {
        ChunkPlanes planes;
        uint32_t unit[kQuad];
        std::memcpy(&planes, operand + chunk * kPlanesBytes, sizeof(planes));
        std::memcpy(unit, units + chunk * kUnitBytes, sizeof(unit));
        for (int64_t i = 0; i < kQuad; ++i) sums[i] += agreement(unit[i], planes);
      }
      const int64_t rows = std::min(kQuad, task.rows - quad * kQuad);
      for (int64_t i = 0; i < rows; ++i) {
        out.at(token, quad * kQuad + i) = 2 * sums[i] - task.totals[token];
      }
    }
  }
}

}  // namespace

const SignKernel kPortableSignKernel = {"portable", [] { return true; }, kPlanesBytes, load,
                                        multiply};

}  // namespace subbit
