// Unpacks a weight whole and hands it to the format's rounding.
#include "compress/fit/int4/fit_int4.h"

#include "base/buffer.h"
#include "formats/int4/int4.h"

namespace subbit {

std::vector<std::byte> fit_int4(const Weight& weight) {
  const Shape shape = weight.shape();
  Buffer<float> values(shape.count());
  const Matrix matrix(values.data(), shape.rows, shape.cols);
  weight.unpack_rows(0, matrix);
  return pack_int4(matrix);
}

std::vector<std::byte> invent_int4(Shape shape, float deviation, uint64_t seed) {
  return random_int4(shape, deviation, seed);
}

uint64_t fitted_int4_bytes(Shape shape) { return int4_bytes(shape); }

}  // namespace subbit
