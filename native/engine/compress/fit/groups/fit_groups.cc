// Unpacks a weight whole and hands it to the format's rounding.
#include "compress/fit/groups/fit_groups.h"

#include "base/buffer.h"
#include "base/check.h"
#include "formats/int2/int2.h"
#include "formats/int3/int3.h"
#include "formats/int4/int4.h"
#include "formats/int8/int8.h"

namespace subbit {
namespace {

struct GroupWidth {
  int bits;
  std::string_view format;
  uint64_t (*bytes)(Shape shape);
  std::vector<std::byte> (*pack)(ConstMatrix weights);
  double error;  // measured on Gaussian weights, groups of 64
};

constexpr GroupWidth kWidths[] = {
    {2, "int2", int2_bytes, pack_int2, 0.1},
    {3, "int3", int3_bytes, pack_int3, 0.03},
    {4, "int4", int4_bytes, pack_int4, 0.0087},
    {8, "int8", int8_bytes, pack_int8, 0.00005},
};

const GroupWidth* find_width(int bits) {
  for (const GroupWidth& width : kWidths)
    if (width.bits == bits) return &width;
  return nullptr;
}

const GroupWidth& width_of(int bits) {
  const GroupWidth* width = find_width(bits);
  CHECK(width != nullptr);
  return *width;
}

}  // namespace

bool is_group_width(int bits) { return find_width(bits) != nullptr; }
std::string_view group_format(int bits) { return width_of(bits).format; }
uint64_t group_format_bytes(int bits, Shape shape) { return width_of(bits).bytes(shape); }
double predicted_group_error(int bits) { return width_of(bits).error; }

std::vector<std::byte> fit_groups(const Weight& weight, int bits) {
  const Shape shape = weight.shape();
  Buffer<float> values(shape.count());
  const Matrix matrix(values.data(), shape.rows, shape.cols);
  weight.unpack_rows(0, matrix);
  return width_of(bits).pack(matrix);
}

std::vector<std::byte> invent_int4(Shape shape, float deviation, uint64_t seed) {
  return random_int4(shape, deviation, seed);
}

}  // namespace subbit
