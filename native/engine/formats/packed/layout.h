// The bytes of a packed linear: one safetensors tensor, U8, little endian.
//
//   head      LinearHead                                                        16 bytes
//   terms     TermHead x terms                                                  16 bytes each
//   vectors   bias float[rows] if flagged; s_post half[rows]; s_pre half[cols] if flagged;
//             each flagged term's s_mid half[rank]; zero to a multiple of A
//   words     each term's words in order; zero to a multiple of A
//
// A is 128 (a cache line) if all words together take 64 KiB or more, else 32. The weight it stands
// for is  s_post[i] * (sum over terms of gain * T[i][j]) * s_pre[j].
//
// A `table` term names the vectors that its index bytes choose from by the table's number: they are
// the tensor model.tables.<number>, I8 [256, d], which many linears share and whose bytes are the
// body's, not this tensor's. d and the number share the 16 bits that other kinds use for the rank.
//
// Half vectors carry no magnitude: the writer scales each by a power of two so that its largest
// |value| lies in [2^14, 2^15) and moves that factor into `gain` (s_mid: nowhere, quantization
// removes it). Every entry is zero or a normal number; readers refuse others.
#pragma once

#include <cstdint>

namespace subbit {

inline constexpr char kPackedMagic[4] = {'S', 'B', 'L', '1'};
inline constexpr int kMaxTerms = 8;

struct LinearHead {
  char magic[4];
  uint8_t terms;  // 1..kMaxTerms
  uint8_t flags;
  uint16_t zero;
  uint32_t rows;
  uint32_t cols;
};
static_assert(sizeof(LinearHead) == 16);

enum LinearFlags : uint8_t { kOwnPreScale = 1, kHasBias = 2 };

struct TermHead {
  uint8_t kind;  // TermKind::tag
  uint8_t flags;
  uint16_t parameter;  // factored: rank / 32; table: d | number << 8; else 0
  uint32_t first_column;
  uint32_t columns;
  float gain;
};
static_assert(sizeof(TermHead) == 16);

enum TermFlags : uint8_t { kHasMidScale = 1 };

inline constexpr int64_t kRankUnit = 32;
inline constexpr uint64_t kLargeWords = 64 * 1024;

inline uint64_t section_alignment(uint64_t word_bytes) {
  return word_bytes >= kLargeWords ? 128 : 32;
}
inline uint64_t align_up(uint64_t bytes, uint64_t alignment) {
  return (bytes + alignment - 1) / alignment * alignment;
}

}  // namespace subbit
