// Four-bit groups, for embeddings and heads. A unit of a 64-column group is 32 bytes: low nibbles
// hold columns 0..31, high nibbles 32..63 (two activation chunks); of a 32-column group 16 bytes,
// low 0..15, high 16..31. A nibble stands for its value less 8.
#include "formats/int4/int4.h"

#include "formats/groups/groups.h"
#include "formats/groups/portable_kernel.h"
#include "formats/int4/int4_kernels.h"

namespace subbit {
namespace {

void store(const int8_t* codes, int64_t group, uint8_t* unit) {
  const int64_t half = group / 2;
  for (int64_t j = 0; j < half; ++j) {
    unit[j] = static_cast<uint8_t>((codes[j] + 8) | (codes[half + j] + 8) << 4);
  }
}

void load(const uint8_t* unit, int64_t group, int8_t* codes) {
  const int64_t half = group / 2;
  for (int64_t j = 0; j < half; ++j) {
    codes[j] = static_cast<int8_t>((unit[j] & 15) - 8);
    codes[half + j] = static_cast<int8_t>((unit[j] >> 4) - 8);
  }
}

GroupCoding make_coding() {
  GroupCoding coding;
  coding.name = "int4";
  coding.stored = StoredWeight::Kind::kInt4;
  coding.bits = 4;
  coding.code_min = -8;
  coding.code_max = 7;
  coding.code_reach = 8;
  coding.store = store;
  coding.load = load;
  static const GroupKernel kernels[] = {
#if defined(__x86_64__)
      kInt4Avx512, kInt4Avx512Quads, kInt4Avx2,
#elif defined(__aarch64__)
      kInt4NeonDot, kInt4Neon,
#endif
      portable_kernel<4, load>()};
  coding.kernels = kernels;
  return coding;
}

}  // namespace

const GroupCoding& int4_coding() {
  static const GroupCoding instance = make_coding();
  return instance;
}

const Format& int4_format() {
  static const GroupFormat format(int4_coding());
  return format;
}

uint64_t int4_bytes(Shape shape) { return group_bytes(int4_coding(), shape); }
std::vector<std::byte> pack_int4(ConstMatrix weights) {
  return pack_groups(int4_coding(), weights);
}
std::vector<std::byte> random_int4(Shape shape, float deviation, uint64_t seed) {
  return random_groups(int4_coding(), shape, deviation, seed);
}

}  // namespace subbit
