// Eight-bit groups, for embeddings and heads that deserve more than four bits. A unit is one signed
// byte a column, in order; -128 is not used, so that a code and its negative both fit.
#include "formats/int8/int8.h"

#include <cstring>

#include "formats/groups/groups.h"
#include "formats/groups/portable_kernel.h"
#include "formats/int8/int8_kernels.h"

namespace subbit {
namespace {

void store(const int8_t* codes, int64_t group, uint8_t* unit) {
  std::memcpy(unit, codes, static_cast<size_t>(group));
}

void load(const uint8_t* unit, int64_t group, int8_t* codes) {
  std::memcpy(codes, unit, static_cast<size_t>(group));
}

GroupCoding make_coding() {
  GroupCoding coding;
  coding.name = "int8";
  coding.stored = StoredWeight::Kind::kInt8;
  coding.bits = 8;
  coding.code_min = -127;
  coding.code_max = 127;
  coding.code_reach = 127;
  coding.store = store;
  coding.load = load;
  static const GroupKernel kernels[] = {
#if defined(__x86_64__)
      kInt8Avx2,
#elif defined(__aarch64__)
      kInt8NeonDot, kInt8Neon,
#endif
      portable_kernel<8, load>()};
  coding.kernels = kernels;
  return coding;
}

}  // namespace

const GroupCoding& int8_coding() {
  static const GroupCoding instance = make_coding();
  return instance;
}

const Format& int8_format() {
  static const GroupFormat format(int8_coding());
  return format;
}

uint64_t int8_bytes(Shape shape) { return group_bytes(int8_coding(), shape); }
std::vector<std::byte> pack_int8(ConstMatrix weights) {
  return pack_groups(int8_coding(), weights);
}

}  // namespace subbit
