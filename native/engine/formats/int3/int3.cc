// Three-bit groups, for embeddings and heads. A code c stands for 2 c - 7: eight levels, none at
// zero. A unit holds the codes' low two bits, then their high ones: of a 64-column group 16 bytes
// of which byte b holds columns b, b + 16, b + 32 and b + 48, lowest bits first, then 64 bits, one
// a column in order; of a 32-column group 8 bytes (b, b + 8, b + 16, b + 24), then 32 bits.
#include "formats/int3/int3.h"

#include <cstring>

#include "formats/groups/groups.h"
#include "formats/groups/portable_kernel.h"
#include "formats/int3/int3_kernels.h"

namespace subbit {
namespace {

void store(const int8_t* codes, int64_t group, uint8_t* unit) {
  const int64_t quarter = group / 4;
  std::memset(unit, 0, static_cast<size_t>(3 * group / 8));
  uint8_t* high = unit + quarter;
  for (int64_t j = 0; j < group; ++j) {
    const int code = (codes[j] + 7) / 2;
    unit[j % quarter] |= static_cast<uint8_t>((code & 3) << (2 * (j / quarter)));
    high[j / 8] |= static_cast<uint8_t>((code >> 2) << (j % 8));
  }
}

void load(const uint8_t* unit, int64_t group, int8_t* codes) {
  const int64_t quarter = group / 4;
  const uint8_t* high = unit + quarter;
  for (int64_t j = 0; j < group; ++j) {
    const int low = (unit[j % quarter] >> (2 * (j / quarter))) & 3;
    const int code = low | ((high[j / 8] >> (j % 8)) & 1) << 2;
    codes[j] = static_cast<int8_t>(2 * code - 7);
  }
}

GroupCoding make_coding() {
  GroupCoding coding;
  coding.name = "int3";
  coding.stored = StoredWeight::Kind::kInt3;
  coding.bits = 3;
  coding.code_min = -7;
  coding.code_max = 7;
  coding.code_step = 2;
  coding.code_reach = 7;
  coding.store = store;
  coding.load = load;
  static const GroupKernel kernels[] = {
#if defined(__x86_64__)
      kInt3Avx2,
#endif
      portable_kernel<3, load>()};
  coding.kernels = kernels;
  return coding;
}

}  // namespace

const GroupCoding& int3_coding() {
  static const GroupCoding instance = make_coding();
  return instance;
}

const Format& int3_format() {
  static const GroupFormat format(int3_coding());
  return format;
}

uint64_t int3_bytes(Shape shape) { return group_bytes(int3_coding(), shape); }
std::vector<std::byte> pack_int3(ConstMatrix weights) {
  return pack_groups(int3_coding(), weights);
}

}  // namespace subbit
