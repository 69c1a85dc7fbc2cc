// Two-bit groups, for embeddings and heads. A code c stands for 2 c - 3: four levels on both sides
// of zero, none at it (of Gaussian weights they leave a ninth of the squares; -2, -1, 0, 1 would
// leave a seventh). A unit of a 64-column group is 16 bytes: byte b holds columns b, b + 16, b + 32
// and b + 48, lowest bits first; of a 32-column group 8 bytes, b, b + 8, b + 16, b + 24.
#include "formats/int2/int2.h"

#include "formats/groups/groups.h"
#include "formats/groups/portable_kernel.h"
#include "formats/int2/int2_kernels.h"

namespace subbit {
namespace {

void store(const int8_t* codes, int64_t group, uint8_t* unit) {
  const int64_t quarter = group / 4;
  for (int64_t b = 0; b < quarter; ++b) {
    int byte = 0;
    for (int64_t k = 0; k < 4; ++k) byte |= (codes[k * quarter + b] + 3) / 2 << (2 * k);
    unit[b] = static_cast<uint8_t>(byte);
  }
}

void load(const uint8_t* unit, int64_t group, int8_t* codes) {
  const int64_t quarter = group / 4;
  for (int64_t b = 0; b < quarter; ++b)
    for (int64_t k = 0; k < 4; ++k)
      codes[k * quarter + b] = static_cast<int8_t>(2 * ((unit[b] >> (2 * k)) & 3) - 3);
}

GroupCoding make_coding() {
  GroupCoding coding;
  coding.name = "int2";
  coding.stored = StoredWeight::Kind::kInt2;
  coding.bits = 2;
  coding.code_min = -3;
  coding.code_max = 3;
  coding.code_step = 2;
  coding.code_reach = 3;
  coding.store = store;
  coding.load = load;
  static const GroupKernel kernels[] = {
#if defined(__x86_64__)
      kInt2Avx2,
#endif
      portable_kernel<2, load>()};
  coding.kernels = kernels;
  return coding;
}

}  // namespace

const GroupCoding& int2_coding() {
  static const GroupCoding instance = make_coding();
  return instance;
}

const Format& int2_format() {
  static const GroupFormat format(int2_coding());
  return format;
}

uint64_t int2_bytes(Shape shape) { return group_bytes(int2_coding(), shape); }
std::vector<std::byte> pack_int2(ConstMatrix weights) {
  return pack_groups(int2_coding(), weights);
}

}  // namespace subbit
