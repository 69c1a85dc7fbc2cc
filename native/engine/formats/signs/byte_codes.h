// The operand of kernels that multiply bytes or floats instead of looking sums up: the codes as
// they are, then the scales. A token's is two planes: 32 bytes a chunk of sign(q_j) * m_j, then
// 2^s_c as four int32 a chunk. Padding chunks are zero, scale included.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "formats/signs/layout.h"
#include "formats/signs/loaded_codes.h"
#include "formats/signs/sign_kernel.h"

namespace subbit {

inline constexpr int64_t kScaleBytes = 4 * sizeof(int32_t);
inline constexpr int64_t kByteCodesChunkBytes = kChunk + kScaleBytes;

/// One token of an operand, over the columns of a task.
struct ByteCodes {
  const int8_t* codes = nullptr;    // [chunks * 32]
  const int32_t* scales = nullptr;  // [chunks, 4], four times the same
};

inline ByteCodes byte_codes_of(const SignTask& task, int64_t token) {
  const uint8_t* at = task.operand + token * task.operand_chunks * kByteCodesChunkBytes;
  const uint8_t* scales = at + task.operand_chunks * kChunk;
  return {reinterpret_cast<const int8_t*>(at) + task.first_chunk * kChunk,
          reinterpret_cast<const int32_t*>(scales) + task.first_chunk * 4};
}

inline void load_byte_codes(const LoadedCodes& codes, int64_t row, uint8_t* operand) {
  const int64_t padded = operand_chunks(codes.chunks);
  std::memset(operand, 0, static_cast<size_t>(padded * kByteCodesChunkBytes));
  std::memcpy(operand, codes.codes.data() + row * codes.chunks * kChunk,
              static_cast<size_t>(codes.chunks * kChunk));
  auto* scales = reinterpret_cast<int32_t*>(operand + padded * kChunk);
  for (int64_t c = 0; c < codes.chunks; ++c)
    std::fill_n(scales + 4 * c, 4, 1 << codes.shifts[row * codes.chunks + c]);
}

}  // namespace subbit
