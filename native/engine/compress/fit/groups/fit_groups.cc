// Unpacks a weight whole and hands it to the format's rounding.
#include "compress/fit/groups/fit_groups.h"

#include "base/buffer.h"
#include "base/check.h"
#include "formats/groups/groups.h"
#include "formats/registry.h"

namespace subbit {
namespace {

const GroupCoding& coding_of(int bits) {
  const GroupCoding* coding = find_group_coding(bits);
  CHECK(coding != nullptr);
  return *coding;
}

}  // namespace

bool is_group_width(int bits) { return find_group_coding(bits) != nullptr; }
std::string_view group_format(int bits) { return coding_of(bits).name; }
uint64_t group_format_bytes(int bits, Shape shape) { return group_bytes(coding_of(bits), shape); }

/// Uniform levels at their best scale leave this of a Gaussian (Max 1960); a scale for each group
/// gains a little.
double predicted_group_error(int bits) {
  switch (bits) {
    case 2:
      return 0.1;
    case 3:
      return 0.03;
    case 4:
      return 0.009;
    default:
      return 0.00005;
  }
}

std::vector<std::byte> fit_groups(const Weight& weight, int bits) {
  const Shape shape = weight.shape();
  Buffer<float> values(shape.count());
  const Matrix matrix(values.data(), shape.rows, shape.cols);
  weight.unpack_rows(0, matrix);
  return pack_groups(coding_of(bits), matrix);
}

std::vector<std::byte> invent_int4(Shape shape, float deviation, uint64_t seed) {
  return random_groups(coding_of(4), shape, deviation, seed);
}

}  // namespace subbit
